//! The commands that have code of their own: sessions, contexts, any method, shells.

use std::path::PathBuf;

use clap::ArgMatches;
use clap_complete::Shell;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::json;

use crate::config::{Context, Folder};
use crate::connection::{Connection, json_of};
use crate::failure::Failure;
use crate::nouns::{NOUNS, Resource};
use crate::output::{self, Format};
use crate::{cli, dynamic, input, run};

pub(crate) async fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let format = *matches
        .get_one::<Format>("output")
        .unwrap_or(&Format::Table);
    let Some((name, args)) = matches.subcommand() else {
        return Err(Failure::Usage("say what to do; see --help".into()));
    };
    match name {
        "methods" => return methods(),
        "completion" => return completion(args),
        "man" => return man(args),
        "context" => return context(matches, args, format).await,
        "login" => return login(matches, args).await,
        _ => {}
    }
    let connection = connection(matches)?;
    let bare = name == "call" && args.get_flag("no-auth");
    if !bare {
        connection.resume().await?;
    }
    match name {
        "password" => password(&connection).await,
        "logout" => logout(&connection).await,
        "whoami" => {
            let me = "vpnpanel.auth.v1.AuthService/GetMe";
            output::show(
                format,
                &connection.one(me, json!({})).await?["account"],
                &[],
            )
        }
        "call" => call(&connection, args, format).await,
        "sub" => sub(&connection, args, format).await,
        noun => {
            let verbs = NOUNS
                .iter()
                .filter(|n| n.name == noun)
                .flat_map(|n| n.verbs);
            let (name, args) = args.subcommand().unwrap_or(("", args));
            match verbs.into_iter().find(|verb| verb.name == name) {
                Some(verb) => run::verb(&connection, verb, args, format).await,
                None => Err(Failure::Usage(format!("there is no {noun} {name}"))),
            }
        }
    }
}

/// The name of the context: the one that is asked for, the current one, or `default`.
fn context_name(matches: &ArgMatches, current: &str) -> String {
    let asked = matches.get_one::<String>("context").map(String::as_str);
    let known = Some(current).filter(|name| !name.is_empty());
    asked.or(known).unwrap_or("default").to_owned()
}

fn connection(matches: &ArgMatches) -> Result<Connection, Failure> {
    let folder = Folder::of_environment()?;
    let config = folder.config()?;
    let name = context_name(matches, &config.current);
    let context = config.contexts.get(&name).ok_or_else(|| {
        Failure::SignIn(format!(
            "there is no context {name:?}: run `vpnctl login --server URL --email EMAIL`"
        ))
    })?;
    let tenant = matches.get_one::<String>("tenant").cloned();
    let tenant = tenant.or_else(|| context.tenant.clone());
    // The scheduler listens at an address of its own, so one call may go elsewhere.
    let server = matches
        .get_one::<String>("endpoint")
        .unwrap_or(&context.server);
    Connection::new(folder, name, server, context.ca_file.as_ref(), tenant)
}

async fn login(matches: &ArgMatches, args: &ArgMatches) -> Result<(), Failure> {
    let folder = Folder::of_environment()?;
    let mut config = folder.config()?;
    let name = context_name(matches, &config.current);
    let mut context = config.contexts.get(&name).cloned().unwrap_or_default();
    if let Some(server) = args.get_one::<String>("server") {
        // A tenant and an authority of another server mean nothing at this one.
        if *server != context.server {
            context = Context::default();
        }
        context.server.clone_from(server);
    }
    if context.server.is_empty() {
        return Err(Failure::Usage(
            "say where: --server http://host:50051".into(),
        ));
    }
    if let Some(path) = args.get_one::<PathBuf>("ca-file") {
        let path = std::path::absolute(path)
            .map_err(|e| Failure::Local(format!("{}: {e}", path.display())))?;
        context.ca_file = Some(path);
    }
    let connection = Connection::new(
        folder,
        name.clone(),
        &context.server,
        context.ca_file.as_ref(),
        None,
    )?;
    let text = |name: &str| args.get_one::<String>(name).cloned().unwrap_or_default();
    let request = json!({
        "email": text("email"),
        "password": input::secret("password")?,
        "totpCode": text("totp"),
    });
    let answer = connection
        .one("vpnpanel.auth.v1.AuthService/Login", request)
        .await?;
    let _lock = connection.folder.lock()?;
    connection.keep(&answer).await?;
    config.contexts.insert(name.clone(), context);
    config.current.clone_from(&name);
    connection.folder.set_config(&config)?;
    output::note(&format!("signed in, context {name:?}"));
    if answer["passwordChangeRequired"] == true {
        output::note("nothing else is permitted before you run `vpnctl password`");
    }
    Ok(())
}

async fn password(connection: &Connection) -> Result<(), Failure> {
    let request = json!({
        "currentPassword": input::secret("current password")?,
        "newPassword": input::secret("new password")?,
    });
    let method = "vpnpanel.auth.v1.AuthService/ChangePassword";
    let _lock = connection.folder.lock()?;
    let answer = connection.one(method, request).await?;
    connection.keep(&answer).await?;
    output::note("the password is changed");
    Ok(())
}

async fn logout(connection: &Connection) -> Result<(), Failure> {
    let told = connection
        .one("vpnpanel.auth.v1.AuthService/Logout", json!({}))
        .await;
    let _lock = connection.folder.lock()?;
    connection.folder.set_tokens(&connection.context, None)?;
    told.map(drop)
}

async fn context(matches: &ArgMatches, args: &ArgMatches, format: Format) -> Result<(), Failure> {
    let folder = Folder::of_environment()?;
    let mut config = folder.config()?;
    match args.subcommand() {
        Some(("use", args)) => {
            let name = args.get_one::<String>("name").cloned().unwrap_or_default();
            if !config.contexts.contains_key(&name) {
                return Err(Failure::Usage(format!("there is no context {name:?}")));
            }
            config.current = name;
            folder.set_config(&config)
        }
        Some(("set-tenant", args)) => {
            let mut connection = connection(matches)?;
            connection.resume().await?;
            connection.tenant = args.get_one::<String>("name").cloned();
            let id = run::tenant(&connection).await?;
            if let Some(context) = config.contexts.get_mut(&connection.context) {
                context.tenant = Some(id);
            }
            folder.set_config(&config)
        }
        _ => {
            let each = config.contexts.iter().map(|(name, context)| {
                json!({
                    "name": name,
                    "server": context.server,
                    "tenant": context.tenant,
                    "current": *name == config.current,
                })
            });
            let columns = ["name", "server", "tenant", "current"];
            output::show(format, &each.collect(), &columns)
        }
    }
}

async fn call(connection: &Connection, args: &ArgMatches, format: Format) -> Result<(), Failure> {
    let text = |name: &str| args.get_one::<String>(name).map_or("", String::as_str);
    let name = text("method");
    let method = dynamic::method(name)?;
    // A stream's messages are lines; an answer of any shape is no table.
    let format = match format {
        Format::Table if method.is_server_streaming() => Format::Ndjson,
        Format::Table => Format::Json,
        format => format,
    };
    let show_secrets = args.get_flag("show-secrets");
    connection
        .each(name, input::json(text("data"))?, |message| {
            let mut shown = json_of(&message)?;
            if !show_secrets {
                vpnpanel_api::redact(&method.output(), &mut shown);
            }
            output::show(format, &shown, &[])
        })
        .await
}

async fn sub(connection: &Connection, args: &ArgMatches, format: Format) -> Result<(), Failure> {
    let (what, args) = args.subcommand().unwrap_or(("", args));
    let tenant = run::tenant(connection).await?;
    let name = args.get_one::<String>("user").map_or("", String::as_str);
    let user = run::look_up(connection, Resource::User, name, Some(&tenant)).await?;
    let request = json!({"tenantId": tenant, "userId": user});
    let method = "vpnpanel.user.v1.UserService/ListUserConnections";
    let answer = connection.one(method, request).await?;
    if format != Format::Table {
        return output::show(format, &answer, &[]);
    }
    if what == "config" {
        for connection in answer["connections"].as_array().into_iter().flatten() {
            for field in ["wireguardConfig", "shareLink"] {
                match connection[field].as_str() {
                    Some(config) if !config.is_empty() => {
                        output::text(&format!("{}\n", config.trim_end()))?;
                    }
                    _ => {}
                }
            }
        }
        return Ok(());
    }
    let url = answer["subscriptionUrl"].as_str().unwrap_or_default();
    if url.is_empty() {
        return Err(Failure::Local(format!("{name} has no subscription link")));
    }
    if args.get_flag("qr") {
        let code = QrCode::new(url).map_err(|e| Failure::Local(format!("QR code: {e}")))?;
        output::text(&format!("{}\n", code.render::<Dense1x2>().build()))?;
    }
    output::text(&format!("{url}\n"))
}

fn methods() -> Result<(), Failure> {
    let names = vpnpanel_api::METHODS.iter();
    let names = names.map(|method| format!("{}\n", method.path.trim_start_matches('/')));
    output::text(&names.collect::<String>())
}

fn completion(args: &ArgMatches) -> Result<(), Failure> {
    let shell = *args.get_one::<Shell>("shell").unwrap_or(&Shell::Bash);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "vpnctl", &mut script);
    output::text(&String::from_utf8_lossy(&script))
}

fn man(args: &ArgMatches) -> Result<(), Failure> {
    let folder = args
        .get_one::<PathBuf>("folder")
        .cloned()
        .unwrap_or_default();
    let failed = |e: std::io::Error| Failure::Local(format!("{}: {e}", folder.display()));
    std::fs::create_dir_all(&folder).map_err(failed)?;
    clap_mangen::generate_to(cli::command(), &folder).map_err(failed)
}
