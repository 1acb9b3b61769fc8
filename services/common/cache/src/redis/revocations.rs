//! Ended credentials, as long as they could be presented. A marker says that the list is complete;
//! it goes when the list is wiped, and comes back when the list was built from the database again.
//! Without it the list is believed when it says "revoked", and not when it says nothing.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use fred::{
    interfaces::KeysInterface,
    types::{Expiration, SetOptions, Value},
};
use tokio::sync::Notify;
use vpnpanel_auth::revocation::{Credential, Listed, RevocationList, RevocationSource};
use vpnpanel_runtime::clock::Clock;

use super::{
    link::{Away, Link},
    script::Script,
};

/// How often it is looked whether the list is complete, if nobody notices before.
const LOOK: Duration = Duration::from_secs(1);
/// A replica that builds the list is given so long; then another one may.
const BUILDING: Duration = Duration::from_secs(10);
/// Credentials in one command.
const CHUNK: usize = 200;

/// Every key for as many milliseconds as the argument beside it says.
const ADD: &str = r"
for at, key in ipairs(KEYS) do redis.call('SET', key, '1', 'PX', ARGV[at]) end
return #KEYS
";

/// The list is complete, if it was not wiped since the building began.
const COMPLETE: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], '1')
return 1
";

pub(crate) struct RedisRevocations {
    link: Link,
    credential_life: Duration,
    add: Script,
    complete: Script,
    /// Something is missing in the list that could not be put there.
    owing: AtomicBool,
    incomplete: Notify,
    clock: Clock,
}

impl RedisRevocations {
    pub(super) fn new(link: Link, credential_life: Duration) -> Self {
        Self {
            link,
            credential_life,
            add: Script::new(ADD),
            complete: Script::new(COMPLETE),
            owing: AtomicBool::new(false),
            incomplete: Notify::new(),
            clock: Clock::system(),
        }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    fn marker(&self) -> String {
        self.link.key("complete")
    }

    /// Builds the list again whenever it is not complete.
    pub(super) async fn keep_complete(&self, source: &dyn RevocationSource) {
        loop {
            // Woken early, or at the time: both look.
            let _woken = tokio::time::timeout(LOOK, self.incomplete.notified()).await;
            if let Ok(false) = self.is_complete().await {
                self.rebuild(source).await;
            }
        }
    }

    async fn is_complete(&self) -> Result<bool, Away> {
        if self.owing.load(Ordering::Acquire) {
            let marker = self.marker();
            let deleted = self.link.ask(async |connection| {
                let deleted: i64 = connection.del(marker).await?;
                Ok(deleted)
            });
            deleted.await?;
            self.owing.store(false, Ordering::Release);
        }
        let marker = self.marker();
        let found = self.link.ask(async |connection| {
            let found: Option<String> = connection.get(marker).await?;
            Ok(found.is_some())
        });
        found.await
    }

    async fn rebuild(&self, source: &dyn RevocationSource) {
        match self.try_rebuild(source).await {
            Ok(Some(count)) => tracing::info!(event = "revocations_rebuilt", count),
            // Another replica does it, or it was wiped meanwhile: looked at again soon.
            Ok(None) => {}
            Err(Away) => tracing::debug!("the list of revocations is not built: Redis is away"),
        }
    }

    async fn try_rebuild(&self, source: &dyn RevocationSource) -> Result<Option<usize>, Away> {
        let building = self.link.key("building");
        let token = uuid::Uuid::new_v4().simple().to_string();
        let begun = self.link.ask(async |connection| {
            let expiry = Expiration::PX(millis(BUILDING));
            let (key, token) = (building.clone(), token.clone());
            let nx = Some(SetOptions::NX);
            let begun: Option<String> = connection.set(key, token, Some(expiry), nx, false).await?;
            Ok(begun.is_some())
        });
        if !begun.await? {
            return Ok(None);
        }
        let life = millis(self.credential_life);
        let now = self.clock.unix_millis();
        let ended = match source.revoked_since(now.saturating_sub(life)).await {
            Ok(ended) => ended,
            Err(error) => {
                tracing::warn!(event = "revocations_not_read", %error);
                return Ok(None);
            }
        };
        let entries: Vec<(Credential, i64)> = ended
            .iter()
            // A clock that is behind must not shorten it.
            .map(|one| (one.credential, (one.at_ms + life - now).clamp(1, life)))
            .collect();
        self.put(&entries).await?;
        let keys = vec![building, self.marker()];
        let complete = self.link.ask(async |connection| {
            let arguments = vec![token.into()];
            self.complete.run::<i64>(connection, keys, arguments).await
        });
        Ok((complete.await? == 1).then_some(entries.len()))
    }

    async fn put(&self, entries: &[(Credential, i64)]) -> Result<(), Away> {
        for chunk in entries.chunks(CHUNK) {
            let keys = chunk.iter().map(|(one, _)| self.link.key(&one.to_string()));
            let lives = chunk.iter().map(|(_, life)| Value::Integer(*life));
            let (keys, lives) = (keys.collect(), lives.collect());
            let added = self
                .link
                .ask(async |connection| self.add.run::<i64>(connection, keys, lives).await);
            added.await?;
        }
        Ok(())
    }
}

#[async_trait]
impl RevocationList for RedisRevocations {
    async fn revoke(&self, credentials: &[Credential]) {
        let life = millis(self.credential_life);
        let entries: Vec<_> = credentials.iter().map(|one| (*one, life)).collect();
        if self.put(&entries).await.is_err() {
            self.owing.store(true, Ordering::Release);
            self.incomplete.notify_one();
        }
    }

    async fn check(&self, credential: Credential) -> Listed {
        let keys = vec![self.link.key(&credential.to_string()), self.marker()];
        let found = self.link.ask(async |connection| {
            let found: (Option<String>, Option<String>) = connection.mget(keys).await?;
            Ok(found)
        });
        match found.await {
            Ok((Some(_), _)) => Listed::Revoked,
            Ok((None, Some(_))) => Listed::Clear,
            Ok((None, None)) => {
                self.incomplete.notify_one();
                Listed::Unknown
            }
            Err(Away) => Listed::Unknown,
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
