//! Writes the files of `fuzz/corpus` that hold what the product itself encodes: tokens, keys,
//! certificates, frames. Run it when an encoding has changed on purpose.
#![allow(
    clippy::unwrap_used,
    reason = "a tool of developers: a failure is a panic"
)]

use std::path::Path;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use prost::Message;
use vpnpanel_auth::AccessClaims;
use vpnpanel_domain::{
    AccountId, InboundId, LeaseId, MicroBytes, Multiplier, PeerId, PeriodId, SessionId, Speed,
    SpeedLimit, TenantId, UserId,
};
use vpnpanel_fuzz_targets::test_key;
use vpnpanel_link::wire::{
    Update, down_to_wire, encode_delta, encode_payload, encode_state, pieces, seal, state_digest,
    up_to_wire,
};
use vpnpanel_link::*;
use vpnpanel_pki::{CertificateAuthority, MasterKey, NODE_VALIDITY, Sealer, csr};
use vpnpanel_runtime::tls::{certificates_to_pem, key_to_pem};
use vpnpanel_runtime::{PeerIdentity, TrustDomain};

const NOW_MS: i64 = 1_790_000_000_000;

fn main() {
    vpnpanel_runtime::install_crypto_provider();
    access_tokens();
    certificates();
    frames();
}

fn write(file: &str, bytes: impl AsRef<[u8]>) {
    let corpus = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../corpus"));
    std::fs::write(corpus.join(file), bytes).unwrap();
}

fn access_tokens() {
    let claims = AccessClaims {
        iss: "vpnpanel".to_owned(),
        aud: "vpnpanel".to_owned(),
        sub: AccountId::from_parts(1, [1; 10]),
        sid: SessionId::from_parts(2, [2; 10]),
        jti: "01970000-0000-7000-8000-000000000001".parse().unwrap(),
        tenant: None,
        iat: NOW_MS / 1000,
        nbf: NOW_MS / 1000,
        exp: NOW_MS / 1000 + 900,
    };
    let token = |name: &str, change: &dyn Fn(&mut AccessClaims)| {
        let mut claims = claims.clone();
        change(&mut claims);
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(test_key().kid().to_owned());
        let key = EncodingKey::from_ed_der(test_key().pkcs8());
        let text = jsonwebtoken::encode(&header, &claims, &key).unwrap();
        write(&format!("access_tokens/{name}"), text + "\n");
    };
    let seconds = NOW_MS / 1000;
    token("valid-token", &|_| ());
    token("valid-for-one-tenant", &|claims| {
        claims.tenant = Some(TenantId::from_parts(3, [3; 10]));
    });
    token("valid-expired-within-the-skew", &|claims| {
        claims.exp = seconds - 29
    });
    token("valid-early-within-the-skew", &|claims| {
        claims.nbf = seconds + 29
    });
    token("bad-expired", &|claims| claims.exp = seconds - 30);
    token("bad-early", &|claims| claims.nbf = seconds + 31);
    token("bad-times-at-the-ends-of-i64", &|claims| {
        (claims.nbf, claims.exp) = (i64::MAX, i64::MIN);
    });
    token("bad-audience", &|claims| {
        "other".clone_into(&mut claims.aud)
    });
    token("bad-issuer", &|claims| "other".clone_into(&mut claims.iss));
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(test_key().kid().to_owned());
    let key = EncodingKey::from_secret(test_key().public_key());
    let text = jsonwebtoken::encode(&header, &claims, &key).unwrap();
    write("access_tokens/bad-hs256-by-the-public-key", text + "\n");
}

fn certificates() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let request = |name: &str, key: &rcgen::KeyPair| {
        let params = rcgen::CertificateParams::new(vec!["node.example".to_owned()]).unwrap();
        let request = params.serialize_request(key).unwrap().der().to_vec();
        write(&format!("certificate_requests/{name}"), &request);
        request
    };
    let mut der = request("valid-p256", &key);
    write("certificate_requests/bad-cut-off", &der[..der.len() / 2]);
    let last = der.len() - 1;
    der[last] ^= 1;
    write("certificate_requests/bad-signature", &der);
    der[last] ^= 1;
    der.push(0);
    write("certificate_requests/bad-bytes-follow", &der);
    der.pop();
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    request("bad-p384", &p384);
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    request("bad-ed25519", &ed25519);

    let sealer = Sealer::new(&MasterKey::generate().unwrap()).unwrap();
    let domain = TrustDomain::default();
    let stored = CertificateAuthority::create(&domain, &sealer, NOW_MS).unwrap();
    write(
        "certificates/bad-the-authority-is-no-peer",
        &stored.certificate_der,
    );
    let authority = CertificateAuthority::open(&stored, domain, &sealer).unwrap();
    let public = csr::public_key(&der).unwrap();
    let certificate = |name: &str, identity: &PeerIdentity| {
        let issued = authority
            .issue(identity, &public, NODE_VALIDITY, NOW_MS)
            .unwrap();
        write(&format!("certificates/{name}"), &issued.chain[0]);
        issued.chain[0].to_vec()
    };
    let tenant = Some(TenantId::from_parts(3, [3; 10]).uuid());
    let node = vpnpanel_domain::NodeId::from_parts(4, [4; 10]).uuid();
    let mut leaf = certificate("valid-node", &PeerIdentity::Node { tenant: None, node });
    certificate("valid-dedicated-node", &PeerIdentity::Node { tenant, node });
    certificate(
        "valid-service",
        &PeerIdentity::control_plane("collector").unwrap(),
    );
    write("certificates/bad-cut-off", &leaf[..leaf.len() / 2]);
    let scheme = leaf.windows(6).position(|part| part == b"spiffe").unwrap();
    leaf[scheme] = b'S';
    write("certificates/bad-scheme", &leaf);

    let service = authority.issue_service("gateway", &[], NOW_MS).unwrap();
    let chain = certificates_to_pem(&service.credentials.chain);
    write("pem/valid-chain", &chain);
    write("pem/valid-crlf", chain.replace('\n', "\r\n"));
    write(
        "pem/valid-text-around",
        format!("Bag Attributes\n  a: b\n{chain}\nthe end\n"),
    );
    write(
        "pem/valid-private-key",
        key_to_pem(&service.credentials.key).unwrap(),
    );
    write("pem/bad-without-an-end", &chain[..chain.len() / 3]);
    write(
        "pem/bad-other-label",
        chain.replace("CERTIFICATE", "CERTIFICATE REQUEST"),
    );
    write("pem/bad-base64", chain.replace("MII", "M!I"));
}

fn frames() {
    let user = UserId::from_parts(1, [1; 10]);
    let period = PeriodId::from_parts(2, [2; 10]);
    let peer = PeerId::from_parts(3, [3; 10]);
    let inbound = InboundId::from_parts(4, [4; 10]);
    let counter = CounterKey {
        incarnation: Incarnation([5; 16]),
        peer,
    };
    let attribution = Attribution {
        user,
        period,
        multiplier: Multiplier::from_ppm(1_500_000).unwrap(),
        leased: true,
    };
    let row = Row {
        counter,
        attribution,
        bucket: Bucket::at(NOW_MS),
        up: Range::new(1_000, 2_000).unwrap(),
        down: Range::new(0, u64::from(u32::MAX)).unwrap(),
    };
    let epoch = Epoch([6; 16]);
    let payload = Payload {
        predecessor: None,
        written_at_ms: NOW_MS,
        rows: vec![row],
    };
    let batch = seal(epoch, Seq(1), &payload);
    let next = Payload {
        predecessor: Some(batch.name()),
        rows: vec![
            row,
            Row {
                counter: CounterKey {
                    incarnation: Incarnation([7; 16]),
                    peer,
                },
                ..row
            },
        ],
        ..payload.clone()
    };
    write("usage/valid-one-row", encode_payload(&payload));
    write("usage/valid-two-incarnations", encode_payload(&next));
    let whole = encode_payload(&next);
    write("usage/bad-cut-off", &whole[..whole.len() - 7]);
    // The index of an incarnation that is not in the list.
    let mut lost = vpnpanel_api::agent::v1::UsagePayload::decode(whole).unwrap();
    lost.incarnations.truncate(1);
    write("usage/bad-incarnation-not-listed", lost.encode_to_vec());

    let xray_inbound = InboundId::from_parts(8, [8; 10]);
    let state = DesiredState {
        draining: true,
        multiplier: Multiplier::from_ppm(1_000_000).unwrap(),
        inbounds: vec![
            DesiredInbound {
                id: inbound,
                settings: InboundSettings::WireGuard(WireGuardInbound {
                    private_key: Secret([8; 32]),
                    port: 51_820,
                    addresses: vec![InterfaceAddress {
                        address: "10.7.0.1".parse().unwrap(),
                        prefix: 16,
                    }],
                    mtu: 1_420,
                }),
            },
            DesiredInbound {
                id: xray_inbound,
                settings: InboundSettings::Xray(XrayInbound {
                    port: 443,
                    protocol: XrayProtocol::Vless { vision: true },
                    transport: XrayTransport::Tcp,
                    security: XraySecurity::Reality {
                        target: "example.com:443".to_owned(),
                        server_names: vec!["example.com".to_owned()],
                        private_key: Secret([13; 32]),
                        short_ids: std::collections::BTreeSet::from([[14; 8]]),
                    },
                }),
            },
        ],
        users: vec![DesiredUser {
            id: user,
            period: DesiredPeriod {
                id: period,
                ends_ms: Some(NOW_MS),
                spent: true,
            },
            next_period: Some(DesiredPeriod {
                id: PeriodId::from_parts(5, [5; 10]),
                ends_ms: None,
                spent: false,
            }),
            blocked: false,
            limited: true,
            not_after_ms: Some(NOW_MS),
            speed: SpeedLimit {
                up: Speed::nearest(10_000_000),
                down: Speed::nearest(20_000_000),
            },
            devices: 3,
            peers: vec![
                DesiredPeer {
                    id: peer,
                    inbound,
                    access: PeerAccess::WireGuard {
                        public_key: [9; 32],
                        preshared_key: Some(Secret([10; 32])),
                        ipv4: Some("10.7.0.2".parse().unwrap()),
                        ipv6: Some("fd00::2".parse().unwrap()),
                    },
                },
                DesiredPeer {
                    id: PeerId::from_parts(7, [7; 10]),
                    inbound: xray_inbound,
                    access: PeerAccess::Xray {
                        credential: SecretText::new("6ba7b810-9dad-41d1-80b4-00c04fd430c8"),
                    },
                },
            ],
        }],
    };
    let encoded = encode_state(&state);
    write("desired_states/valid-one-user", &encoded);
    write("desired_states/bad-cut-off", &encoded[..encoded.len() - 3]);
    let mut odd = vpnpanel_api::agent::v1::DesiredState::decode(encoded.clone()).unwrap();
    odd.users[0].peers[0].ipv4 = "10.7.0.2/32".to_owned();
    write("desired_states/bad-address", odd.encode_to_vec());

    let lease = LeaseState {
        user,
        period,
        lease: LeaseId::from_parts(6, [6; 10]),
        version: 3,
        allowance: MicroBytes::from_bytes(1_000_000),
        consumed: MicroBytes::from_bytes(1_000),
    };
    let engine = EngineStatus {
        kind: "wireguard".to_owned(),
        version: "1.0".to_owned(),
        healthy: true,
        problem: String::new(),
        peers: 1,
        incarnation: Some(Incarnation([5; 16])),
    };
    let applied = AppliedState {
        revision: Revision(7),
        digest: Digest::of(&encoded),
    };
    let hello = Hello {
        protocol_min: 1,
        protocol_max: PROTOCOL,
        capabilities: vec!["wireguard".to_owned()],
        agent_version: "0.1.0".to_owned(),
        boot: BootId([11; 16]),
        spool: SpoolId([12; 16]),
        applied: Some(applied),
        epochs: vec![EpochSummary {
            epoch,
            first: Seq(1),
            last: Seq(2),
            tail: batch.digest,
            acked: Seq(1),
        }],
        engines: vec![engine.clone()],
        unknown_baselines: vec![counter],
        leases: vec![lease],
        generation: Generation(1),
        state_epoch: StateEpoch(1),
    };
    let up = |name: &str, message: Up| {
        write(
            &format!("frames_up/{name}"),
            up_to_wire(message).encode_to_vec(),
        );
    };
    up("valid-hello", Up::Hello(Box::new(hello)));
    up("valid-batch", Up::Batch(batch.clone()));
    up(
        "valid-health",
        Up::Health(Health {
            engines: vec![engine],
            ..Health::default()
        }),
    );
    up(
        "valid-segments",
        Up::Segments(Segments {
            rows: vec![row],
            unknown: vec![counter],
        }),
    );
    up(
        "valid-config-ack",
        Up::ConfigAck(ConfigAck {
            state: applied,
            resync: false,
            held_removals: 0,
            earlier: true,
            errors: vec![ConfigError {
                kind: "inbound".to_owned(),
                id: inbound.to_string(),
                message: "the port is taken".to_owned(),
            }],
        }),
    );
    up("valid-lease-report", Up::LeaseReport(vec![lease]));
    up("valid-goodbye", Up::Goodbye("shutdown".to_owned()));
    let lying = Batch {
        digest: Digest::of(b"another"),
        ..batch.clone()
    };
    up("bad-digest-of-another-batch", Up::Batch(lying));

    let mark = CounterMark {
        counter,
        totals: Totals { up: 1, down: 2 },
        attribution: Some(attribution),
    };
    let down = |name: &str, message: Down| {
        write(
            &format!("frames_down/{name}"),
            down_to_wire(message).encode_to_vec(),
        );
    };
    down(
        "valid-welcome",
        Down::Welcome(Box::new(Welcome {
            protocol: PROTOCOL,
            generation: Generation(1),
            state_epoch: StateEpoch(1),
            server_time_ms: NOW_MS,
            pace: Pace::default(),
            cursors: vec![batch.name()],
            marks: vec![mark],
            quarantined: None,
            report: true,
        })),
    );
    down(
        "valid-ack",
        Down::UsageAck(UsageAck {
            committed: vec![batch.name()],
            resend_from: Some((epoch, Seq(2))),
            missing_segments: vec![mark],
            grants: vec![Grant {
                user,
                period,
                lease: lease.lease,
                version: 4,
                allowance: lease.allowance,
            }],
            quarantined: None,
        }),
    );
    down("valid-drain", Down::Drain { spread_ms: 5_000 });
    let whole = Update {
        revision: Revision(7),
        kind: UpdateKind::Whole(state_digest(&encoded).unwrap()),
        removals: None,
        data: encoded,
    };
    let delta = Update {
        revision: Revision(8),
        kind: UpdateKind::Delta(Digest([9; 32])),
        removals: Some(RemovalBound {
            users: 10,
            percent: 50,
        }),
        data: encode_delta(&DesiredDelta {
            users: Vec::new(),
            removed: vec![user],
        }),
    };
    for (name, update) in [("valid-config-update", whole), ("valid-delta", delta)] {
        for piece in pieces(&update) {
            down(name, Down::ConfigUpdate(piece));
        }
    }
}
