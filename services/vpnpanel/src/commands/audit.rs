//! The audit log, read from the database itself: for whoever does not want to take the word of a
//! running service.

use std::io::{BufWriter, Write};
use std::str::FromStr;

use clap::Subcommand;
use vpnpanel_domain::TenantId;
use vpnpanel_runtime::settings::ProcessSettings;
use vpnpanel_store::{Anchor, Page, Store, Verification};

use crate::error::Error;
use crate::installation::Installation;
use crate::settings::InstallationSettings;

/// Events that are read at a time.
const BATCH: u32 = 1_000;

/// Settings of the process.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) process: ProcessSettings,
    #[command(flatten)]
    installation: InstallationSettings,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Verifies the hash chains: of one tenant, or the platform's and all tenants'. Exits with 1
    /// where one is not as it was written.
    Verify {
        /// Only this tenant's, or `platform`.
        #[arg(long)]
        tenant: Option<Chain>,
        /// A head that an earlier verification printed, `<number>:<hash>`; goes with --tenant.
        #[arg(long, requires = "tenant")]
        anchor: Option<Noted>,
    },
    /// Prints the events of a chain in its order, a line of JSON for each.
    Export {
        /// This tenant's; the platform's, where it is left out.
        #[arg(long, default_value = "platform")]
        tenant: Chain,
        /// Only events behind this number.
        #[arg(long, default_value_t = 0)]
        after: u64,
    },
}

/// Whose chain.
#[derive(Debug, Clone, Copy)]
struct Chain(Option<TenantId>);

impl FromStr for Chain {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "platform" {
            return Ok(Self(None));
        }
        let tenant = text.parse().map_err(|_| "expected a UUID or `platform`")?;
        Ok(Self(Some(tenant)))
    }
}

/// A head that was noted.
#[derive(Debug, Clone)]
struct Noted(Anchor);

impl FromStr for Noted {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected <number>:<hash>, the hash as 64 hexadecimal digits";
        let (seq, hash) = text.split_once(':').ok_or(EXPECTED)?;
        let seq = seq.parse().map_err(|_| EXPECTED)?;
        let hash = hex::decode(hash).map_err(|_| EXPECTED)?;
        if hash.len() != 32 {
            return Err(EXPECTED);
        }
        Ok(Self(Anchor { seq, hash }))
    }
}

pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let store = Installation::open(&args.installation).await?.store;
    let done = match args.action {
        Action::Verify { tenant, anchor } => verify(&store, tenant, anchor).await,
        Action::Export { tenant, after } => export(&store, tenant, after).await,
    };
    store.close().await;
    done
}

async fn verify(store: &Store, chain: Option<Chain>, noted: Option<Noted>) -> Result<(), Error> {
    let chains = match chain {
        Some(Chain(tenant)) => vec![tenant],
        None => store.audit_chains().await?,
    };
    let anchor = noted.map(|noted| noted.0);
    let mut stdout = std::io::stdout();
    let mut broken = 0;
    for tenant in chains {
        let found = store.verify_audit(tenant, anchor.as_ref()).await?;
        let name = tenant.map_or("platform".to_owned(), |id| format!("tenant {id}"));
        broken += usize::from(found.broken.is_some());
        writeln!(stdout, "{name}: {}", told(&found))?;
    }
    match broken {
        0 => Ok(()),
        count => Err(Error::ChainBroken(count)),
    }
}

fn told(found: &Verification) -> String {
    let mut text = format!("{} events are as they were written", found.verified);
    if let Some(link) = &found.begins_after {
        text += &format!(", behind {} that retention removed", link.seq);
    }
    if let Some(head) = &found.head {
        text += &format!("; head {}:{}", head.seq, hex::encode(&head.hash));
    }
    if found.anchored == Some(true) {
        text += "; the anchor holds";
    }
    if found.tail.count > 0 {
        text += &format!("; {} wait to be chained", found.tail.count);
    }
    if let Some(broken) = found.broken {
        let breach = format!("{:?}", broken.breach).to_lowercase();
        text += &format!("; BROKEN at {}: {breach}", broken.seq);
        if let Some(id) = broken.event_id {
            text += &format!(", event {id}");
        }
    }
    text
}

async fn export(store: &Store, Chain(tenant): Chain, mut after: u64) -> Result<(), Error> {
    let mut stdout = BufWriter::new(std::io::stdout());
    loop {
        let events = store
            .chained_events(tenant, Page::after(BATCH, after))
            .await?;
        let Some(last) = events.last().and_then(|last| last.link.as_ref()) else {
            break;
        };
        after = last.seq;
        for event in events {
            let event = vpnpanel_audit::event(event);
            writeln!(stdout, "{}", vpnpanel_api::shown(&event))?;
        }
    }
    stdout.flush()?;
    Ok(())
}
