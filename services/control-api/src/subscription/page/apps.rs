//! Well-known apps: where they come from, and the link by which they take a subscription.

use super::super::share_link::encoded;

/// What an app connects by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Xray,
    WireGuard,
}

/// An app.
#[derive(Debug)]
pub(super) struct App {
    pub(super) name: &'static str,
    /// Where it comes from.
    pub(super) site: &'static str,
    engine: Engine,
    import: Import,
}

/// How an app is given a subscription from outside.
#[derive(Debug, Clone, Copy)]
enum Import {
    /// Not at all.
    None,
    /// By a link that the address is appended to as it is.
    Path(&'static str),
    /// By a link with the address in its query, and the title behind: in `&name=`.
    Query(&'static str),
    /// The same, with the title as the fragment.
    Fragment(&'static str),
}

/// Apps of one system.
#[derive(Debug)]
pub(super) struct Platform {
    pub(super) name: &'static str,
    apps: &'static [&'static App],
}

const V2RAYNG: App = App {
    name: "v2rayNG",
    site: "https://github.com/2dust/v2rayNG/releases",
    engine: Engine::Xray,
    import: Import::Query("v2rayng://install-sub?url="),
};
const V2RAYN: App = App {
    name: "v2rayN",
    site: "https://github.com/2dust/v2rayN/releases",
    engine: Engine::Xray,
    import: Import::None,
};
const HIDDIFY: App = App {
    name: "Hiddify",
    site: "https://hiddify.com/app",
    engine: Engine::Xray,
    import: Import::Path("hiddify://import/"),
};
const STREISAND: App = App {
    name: "Streisand",
    site: "https://apps.apple.com/app/streisand/id6450534064",
    engine: Engine::Xray,
    import: Import::Path("streisand://import/"),
};
const HAPP: App = App {
    name: "Happ",
    site: "https://www.happ.su",
    engine: Engine::Xray,
    import: Import::Path("happ://add/"),
};
const SING_BOX: App = App {
    name: "sing-box",
    site: "https://sing-box.sagernet.org/clients/",
    engine: Engine::Xray,
    import: Import::Fragment("sing-box://import-remote-profile?url="),
};
const CLASH_VERGE: App = App {
    name: "Clash Verge",
    site: "https://github.com/clash-verge-rev/clash-verge-rev/releases",
    engine: Engine::Xray,
    import: Import::Query("clash://install-config?url="),
};
const WIREGUARD: App = App {
    name: "WireGuard",
    site: "https://www.wireguard.com/install/",
    engine: Engine::WireGuard,
    import: Import::None,
};

impl Platform {
    pub(super) const fn all() -> [Self; 5] {
        [
            Self {
                name: "Android",
                apps: &[&V2RAYNG, &HIDDIFY, &HAPP, &SING_BOX, &WIREGUARD],
            },
            Self {
                name: "iPhone, iPad",
                apps: &[&STREISAND, &HAPP, &SING_BOX, &WIREGUARD],
            },
            Self {
                name: "Windows",
                apps: &[&V2RAYN, &HIDDIFY, &CLASH_VERGE, &WIREGUARD],
            },
            Self {
                name: "macOS",
                apps: &[&HIDDIFY, &HAPP, &CLASH_VERGE, &WIREGUARD],
            },
            Self {
                name: "Linux",
                apps: &[&V2RAYN, &HIDDIFY, &CLASH_VERGE, &WIREGUARD],
            },
        ]
    }

    /// The apps for what there is.
    pub(super) fn apps(&self, xray: bool, wireguard: bool) -> impl Iterator<Item = &'static App> {
        let wanted = move |app: &&App| match app.engine {
            Engine::Xray => xray,
            Engine::WireGuard => wireguard,
        };
        self.apps.iter().copied().filter(wanted)
    }
}

impl App {
    /// The link that opens the app and gives it the subscription.
    pub(super) fn import_link(&self, url: &str, title: &str) -> Option<String> {
        let title = encoded(title);
        match self.import {
            Import::None => None,
            Import::Path(start) => Some(format!("{start}{url}")),
            Import::Query(start) => Some(format!("{start}{}&name={title}", encoded(url))),
            Import::Fragment(start) => Some(format!("{start}{}#{title}", encoded(url))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn import_links_carry_the_address_as_the_apps_take_it() {
        let url = "https://panel.example.com/sub/TOKEN";
        let link = |app: &App| app.import_link(url, "A B").unwrap_or_default();
        let path = "hiddify://import/https://panel.example.com/sub/TOKEN";
        assert_eq!(link(&HIDDIFY), path);
        let encoded = "https%3A%2F%2Fpanel.example.com%2Fsub%2FTOKEN";
        let query = format!("clash://install-config?url={encoded}&name=A%20B");
        assert_eq!(link(&CLASH_VERGE), query);
        let fragment = format!("sing-box://import-remote-profile?url={encoded}#A%20B");
        assert_eq!(link(&SING_BOX), fragment);
        assert_eq!(link(&V2RAYN), "");
    }

    #[test]
    fn apps_are_shown_for_what_there_is() {
        for platform in Platform::all() {
            assert_eq!(platform.apps(false, false).count(), 0);
            let only: Vec<_> = platform.apps(false, true).map(|app| app.name).collect();
            assert_eq!(only, ["WireGuard"]);
            assert!(platform.apps(true, false).count() >= 3);
        }
    }
}
