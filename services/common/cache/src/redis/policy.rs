//! What roles permit, remembered among replicas. An entry names the version of the policy that it
//! is of, and ends by Redis's own clock [`TRUST`] after it was asked for, however late it was
//! written. It is sealed: who can write to Redis cannot grant anybody anything.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fred::{interfaces::KeysInterface, types::Value};
use vpnpanel_auth::{
    PermissionSet, Seal, SharedPolicy,
    policy_cache::{RoleTicket, SharedRole},
    signals::TRUST,
};

use super::{link::Link, script::Script};

/// Version, time in ms, what is left of the entry in ms, and the entry.
const READ: &str = r"
local time = redis.call('TIME')
local version = redis.call('GET', KEYS[1])
if not version then
  version = ARGV[1]
  redis.call('SET', KEYS[1], version)
end
return {version, time[1] * 1000 + math.floor(time[2] / 1000),
  redis.call('PTTL', KEYS[2]), redis.call('GET', KEYS[2])}
";

/// Written only while the policy is still that of the version.
const WRITE: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PXAT', ARGV[3])
return 1
";

pub(crate) struct RedisPolicy {
    link: Link,
    seal: Arc<dyn Seal>,
    read: Script,
    write: Script,
}

impl RedisPolicy {
    pub(super) fn new(link: Link, seal: Arc<dyn Seal>) -> Self {
        Self {
            link,
            seal,
            read: Script::new(READ),
            write: Script::new(WRITE),
        }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    fn keys(&self, role: &str) -> Vec<String> {
        vec![
            self.link.key("version"),
            self.link.key(&format!("role:{role}")),
        ]
    }

    /// `None` for an entry of another version, or one that was not written by a replica.
    fn open(&self, role: &str, version: &str, sealed: &[u8]) -> Option<Entry> {
        let opened = self.seal.open(&context(role, version), sealed).ok()?;
        serde_json::from_slice(&opened).ok()
    }
}

type Entry = Option<PermissionSet>;

/// What an entry is sealed for: it cannot be passed off as another role's, or of another version.
fn context(role: &str, version: &str) -> String {
    format!("policy/{version}/{role}")
}

#[async_trait]
impl SharedPolicy for RedisPolicy {
    async fn read(&self, role: &str) -> SharedRole {
        let asked = std::time::Instant::now();
        let fresh = uuid::Uuid::new_v4().simple().to_string();
        let answer = self.link.ask(async |connection| {
            type Answer = (String, i64, i64, Option<Vec<u8>>);
            let arguments = vec![fresh.into()];
            let script = self
                .read
                .run::<Answer>(connection, self.keys(role), arguments);
            script.await
        });
        let Ok((version, asked_ms, left_ms, sealed)) = answer.await else {
            return SharedRole::Away;
        };
        let entry = sealed.and_then(|sealed| self.open(role, &version, &sealed));
        // What is left is counted from before the question: an answer that took long is older.
        let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
        let left = left.min(TRUST).saturating_sub(asked.elapsed());
        match entry {
            Some(permissions) if !left.is_zero() => SharedRole::Known {
                permissions: permissions.map(Arc::new),
                left,
            },
            _ => SharedRole::Unknown {
                ticket: RoleTicket { version, asked_ms },
            },
        }
    }

    async fn write(&self, role: &str, permissions: Option<&PermissionSet>, ticket: RoleTicket) {
        let context = context(role, &ticket.version);
        let sealed = serde_json::to_vec(&permissions)
            .map_err(Into::into)
            .and_then(|entry| self.seal.seal(&context, &entry));
        let sealed = match sealed {
            Ok(sealed) => sealed,
            Err(error) => {
                tracing::error!(event = "policy_not_sealed", %error);
                return;
            }
        };
        let trust_ms = i64::try_from(TRUST.as_millis()).unwrap_or(0);
        let ends_ms = ticket.asked_ms.saturating_add(trust_ms);
        let written = self.link.ask(async |connection| {
            let sealed = Value::Bytes(sealed.into());
            let arguments = vec![ticket.version.into(), sealed, ends_ms.into()];
            let script = self
                .write
                .run::<i64>(connection, self.keys(role), arguments);
            script.await
        });
        if written.await.is_err() {
            tracing::debug!(role, "what the role permits is not shared: Redis is away");
        }
    }

    async fn changed(&self) {
        let version = uuid::Uuid::new_v4().simple().to_string();
        let set = self.link.ask(async |connection| {
            let key = self.link.key("version");
            let set: () = connection.set(key, version, None, None, false).await?;
            Ok(set)
        });
        if set.await.is_err() {
            tracing::warn!(
                event = "policy_version_not_set",
                "other replicas notice the change of policy by themselves within a second"
            );
        }
    }
}
