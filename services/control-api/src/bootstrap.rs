//! What the first start makes: the built-in roles, a tenant named `default`, and the first
//! administrator with a one-time password. Every step is safe to repeat and safe for several
//! processes at once.

use vpnpanel_auth::{PasswordHasher, Role, strength};
use vpnpanel_domain::Zone;
use vpnpanel_runtime::settings::Secret;
use vpnpanel_store::{
    Attribution, NewAccount, NewRole, NewTenant, Store, StoreError, TenantLimits, fresh_id,
};

use crate::{Error, audit, one_time::OneTimePassword, settings::BootstrapSettings};

/// The first administrator, to be told to whoever started the process, once.
#[derive(Debug)]
pub struct FirstAdministrator {
    /// Its e-mail address.
    pub email: String,
    /// Its one-time password, when it was made here; `None` when it came from the settings.
    pub password: Option<Secret>,
}

/// Makes what is missing; returns the first administrator when this call made it.
pub(crate) async fn first_start(
    store: &Store,
    hasher: &PasswordHasher,
    settings: &BootstrapSettings,
) -> Result<Option<FirstAdministrator>, Error> {
    let roles = Role::ALL.map(|role| NewRole {
        name: role.as_str().to_owned(),
        description: role.description().to_owned(),
        permissions: role.permissions().iter().map(|&p| p.to_owned()).collect(),
    });
    if store.seed_roles(&roles).await? {
        tracing::info!(event = "roles_seeded");
    }
    if store.has_accounts().await? {
        return Ok(None);
    }
    let store = store.acting(Attribution::system(
        "control-api/first-start",
        audit::describe,
    ));
    make_default_tenant(&store).await?;
    make_administrator(&store, hasher, settings).await
}

async fn make_default_tenant(store: &Store) -> Result<(), Error> {
    let tenant = NewTenant {
        id: fresh_id(),
        name: "default".to_owned(),
        time_zone: Zone::utc(),
        limits: TenantLimits::default(),
    };
    match store.create_tenant(tenant, None).await {
        Ok(_) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn make_administrator(
    store: &Store,
    hasher: &PasswordHasher,
    settings: &BootstrapSettings,
) -> Result<Option<FirstAdministrator>, Error> {
    let one_time = match &settings.password {
        Some(given) => {
            let judged = strength::judge(given.expose().into(), settings.email.clone());
            if let Some(weakness) = judged.await? {
                return Err(Error::BootstrapPassword(weakness));
            }
            OneTimePassword::of(given.clone(), hasher).await?
        }
        None => OneTimePassword::generate(hasher).await?,
    };
    let account = NewAccount {
        id: fresh_id(),
        email: settings.email.clone(),
        display_name: "Administrator".to_owned(),
        password_hash: Some(one_time.hash),
        password_change_required: true,
    };
    let account = store
        .create_first_account(account, Role::Admin.as_str())
        .await?;
    Ok(account.map(|account| {
        tracing::info!(event = "first_administrator_made", account_id = %account.id);
        FirstAdministrator {
            email: account.email,
            password: settings.password.is_none().then_some(one_time.password),
        }
    }))
}
