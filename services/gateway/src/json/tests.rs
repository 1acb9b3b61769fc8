//! The writer against prost-reflect's own, the reader against both, on messages drawn at random.

use std::path::Path;
use std::sync::OnceLock;

use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MapKey, MessageDescriptor, SerializeOptions, Value,
};
use serde_json::{Value as Json, json};

use super::layout::Layouts;
use super::read;
use super::wire::WireError;
use super::write::{push_field, push_message};

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let third_party = here.join("../../proto/third_party");
        let mut compiler = protox::Compiler::new([here.join("tests/proto"), third_party]).unwrap();
        compiler
            .include_imports(true)
            .open_file("odd.proto")
            .unwrap();
        DescriptorPool::decode(compiler.encode_file_descriptor_set().as_slice()).unwrap()
    })
}

fn everything() -> MessageDescriptor {
    pool().get_message_by_name("odd.v1.Everything").unwrap()
}

fn layouts() -> &'static Layouts {
    static LAYOUTS: OnceLock<Layouts> = OnceLock::new();
    LAYOUTS.get_or_init(|| Layouts::of(pool()))
}

fn written(bytes: &[u8]) -> Result<Json, WireError> {
    let mut out = Vec::new();
    let layout = layouts().index_of("odd.v1.Everything").unwrap();
    push_message(layouts(), layout, bytes, &mut out)?;
    Ok(serde_json::from_slice(&out).expect("well-formed JSON"))
}

/// The same by prost-reflect; `None` where it refuses.
fn oracle(bytes: &[u8]) -> Option<Json> {
    let message = DynamicMessage::decode(everything(), bytes).ok()?;
    let options = SerializeOptions::new().skip_default_fields(false);
    let mut serializer = serde_json::Serializer::new(Vec::new());
    message
        .serialize_with_options(&mut serializer, &options)
        .ok()?;
    serde_json::from_slice(&serializer.into_inner()).ok()
}

fn read(json: Json) -> Result<DynamicMessage, read::FieldProblem> {
    read::message_from_json(&everything(), json)
}

/// A small generator (SplitMix64), so that a case is one number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Often an edge, else anything.
    fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => i64::MIN as u64,
            4 => self.below(1000),
            _ => self.next(),
        }
    }

    /// Few digits: serde_json reads long ones to within the last bit only.
    fn fraction(&mut self) -> f64 {
        match self.below(8) {
            0 => f64::INFINITY,
            1 => f64::NEG_INFINITY,
            2 => -0.0,
            _ => f64::from(self.next() as i16) / 64.0,
        }
    }

    fn text(&mut self) -> String {
        const PIECES: [&str; 9] = [
            "a",
            "Zz",
            " ",
            "\"",
            "\\",
            "\n\u{1}\u{7f}",
            "é",
            "日本",
            "\u{2028}😀",
        ];
        (0..self.below(5))
            .map(|_| PIECES[self.below(9) as usize])
            .collect()
    }

    fn message(&mut self, descriptor: &MessageDescriptor, depth: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        match descriptor.full_name() {
            "google.protobuf.Timestamp" => {
                let seconds = self.below(315_537_897_600) as i64 - 62_135_596_800;
                message.set_field_by_name("seconds", Value::I64(seconds));
                message.set_field_by_name("nanos", Value::I32(self.nanos()));
            }
            "google.protobuf.Duration" => {
                let sign = if self.below(2) == 0 { 1 } else { -1 };
                let seconds = self.below(315_576_000_000) as i64 * sign;
                message.set_field_by_name("seconds", Value::I64(seconds));
                let nanos = self.nanos() * sign as i32;
                message.set_field_by_name("nanos", Value::I32(nanos));
            }
            "google.protobuf.FieldMask" => {
                let paths = ["a", "a_b.c_d", "display_name"].map(|p| Value::String(p.to_owned()));
                let count = self.below(4) as usize;
                message.set_field_by_name("paths", Value::List(paths[..count].to_vec()));
            }
            "google.protobuf.Struct" => {
                let json = json!({"a": [1.5, null, {"b": self.text()}], "c": true});
                return DynamicMessage::deserialize(descriptor.clone(), json).unwrap();
            }
            "google.protobuf.Value" => {
                let json = [json!(null), json!(1.25), json!("x"), json!({"y": [1, 2]})];
                let json = json[self.below(4) as usize].clone();
                return DynamicMessage::deserialize(descriptor.clone(), json).unwrap();
            }
            "google.protobuf.ListValue" => {
                return DynamicMessage::deserialize(descriptor.clone(), json!([1, "x"])).unwrap();
            }
            "google.protobuf.Any" => {
                let json = json!({"@type": "type.googleapis.com/odd.v1.Nested", "number": 7});
                return DynamicMessage::deserialize(descriptor.clone(), json).unwrap();
            }
            _ => {
                for field in descriptor.fields() {
                    if self.below(if depth == 0 { 2 } else { 4 }) != 0 {
                        continue;
                    }
                    let nested = matches!(field.kind(), Kind::Message(_));
                    if nested && depth > 3 {
                        continue;
                    }
                    let value = self.field(&field, depth);
                    message.set_field(&field, value);
                }
            }
        }
        message
    }

    fn nanos(&mut self) -> i32 {
        let unit = [1_000_000_000, 1_000_000, 1_000, 1][self.below(4) as usize];
        (self.below(1_000_000_000 / unit) * unit) as i32
    }

    fn field(&mut self, field: &prost_reflect::FieldDescriptor, depth: usize) -> Value {
        if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
            let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
            let map = (0..self.below(4)).map(|_| {
                let key: MapKey = self.value(&key.kind(), depth + 1).into_map_key().unwrap();
                (key, self.value(&value.kind(), depth + 1))
            });
            return Value::Map(map.collect());
        }
        if field.is_list() {
            let len = self.below(4);
            return Value::List(
                (0..len)
                    .map(|_| self.value(&field.kind(), depth + 1))
                    .collect(),
            );
        }
        self.value(&field.kind(), depth + 1)
    }

    fn value(&mut self, kind: &Kind, depth: usize) -> Value {
        match kind {
            Kind::Bool => Value::Bool(self.below(2) == 1),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(self.number() as i32),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(self.number() as u32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(self.number() as i64),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(self.number()),
            Kind::Float => Value::F32(self.fraction() as f32),
            Kind::Double => Value::F64(self.fraction()),
            Kind::String => Value::String(self.text()),
            Kind::Bytes => Value::Bytes(
                (0..self.below(7))
                    .map(|_| self.next() as u8)
                    .collect::<Vec<_>>()
                    .into(),
            ),
            Kind::Enum(e) if e.full_name() == "google.protobuf.NullValue" => Value::EnumNumber(0),
            Kind::Enum(_) => Value::EnumNumber(self.below(5) as i32 - 1),
            Kind::Message(m) => Value::Message(self.message(m, depth)),
        }
    }
}

#[test]
fn random_messages_read_the_same_as_by_prost_reflect_and_come_back_whole() {
    for seed in 0..600 {
        let message = Random(seed).message(&everything(), 0);
        let bytes = message.encode_to_vec();
        let json = written(&bytes).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let expected = oracle(&bytes).unwrap_or_else(|| panic!("seed {seed}: no oracle"));
        assert_eq!(json, expected, "seed {seed}");
        let back = read(json).unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        assert_eq!(
            written(&back.encode_to_vec()).unwrap(),
            expected,
            "seed {seed}"
        );
    }
}

#[test]
fn damaged_messages_are_an_error_or_what_prost_reflect_reads() {
    for seed in 0..3000u64 {
        let mut random = Random(seed);
        let mut bytes = random.message(&everything(), 1).encode_to_vec();
        for _ in 0..=random.below(3) {
            if bytes.is_empty() {
                break;
            }
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(3) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes.truncate(at),
                _ => bytes.insert(at, random.next() as u8),
            }
        }
        // prost-reflect takes some that are cut off inside a map; what both take is the same.
        if let (Ok(json), Some(expected)) = (written(&bytes), oracle(&bytes)) {
            assert_eq!(json, expected, "seed {seed}: {bytes:?}");
        }
    }
}

#[test]
fn every_field_has_a_value_unless_absence_means_something() {
    let json = written(&[]).unwrap();
    assert_eq!(json["text"], "");
    assert_eq!(json["big"], "0");
    assert_eq!(json["kind"], "KIND_UNSPECIFIED");
    assert_eq!(json["texts"], json!([]));
    assert_eq!(json["labels"], json!({}));
    assert_eq!(json["snakeCase2Name"], "0");
    assert_eq!(json["farAway"], "");
    for absent in [
        "nested",
        "maybeText",
        "maybeBig",
        "choiceText",
        "when",
        "wrappedBig",
    ] {
        assert_eq!(json.get(absent), None, "{absent}");
    }
}

#[test]
fn fields_come_in_the_order_of_the_proto_file() {
    let mut out = Vec::new();
    let layout = layouts().index_of("odd.v1.Everything").unwrap();
    push_message(layouts(), layout, &[], &mut out).unwrap();
    assert!(out.starts_with(b"{\"text\":\"\",\"flag\":false,\"small\":0,"));
}

#[test]
fn one_field_alone_can_be_the_answer() {
    let answer = |bytes: &[u8], field| {
        let mut out = Vec::new();
        let layout = layouts().index_of("odd.v1.Everything").unwrap();
        push_field(layouts(), layout, field, bytes, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let message = read(json!({"texts": ["a", "b"], "nested": {"number": 3}})).unwrap();
    let bytes = message.encode_to_vec();
    assert_eq!(answer(&bytes, 20), r#"["a","b"]"#);
    let nested = answer(&bytes, 17);
    assert_eq!(nested, r#"{"number":3,"name":"","tags":[]}"#);
    assert_eq!(answer(&[], 20), "[]");
    assert_eq!(answer(&[], 17), r#"{"number":0,"name":"","tags":[]}"#);
}

#[test]
fn an_embedded_message_sent_in_parts_is_one() {
    // nested = {number: 7}, then nested = {name: "x"}.
    let bytes = [
        0x8a, 0x01, 0x02, 0x08, 0x07, 0x8a, 0x01, 0x03, 0x12, 0x01, b'x',
    ];
    assert_eq!(written(&bytes).unwrap(), oracle(&bytes).unwrap());
    assert_eq!(written(&bytes).unwrap()["nested"]["name"], "x");
    assert_eq!(written(&bytes).unwrap()["nested"]["number"], 7);
}

#[test]
fn messages_nested_beyond_the_bound_are_refused_not_followed() {
    let mut bytes = Vec::new();
    for _ in 0..200 {
        let mut outer = vec![0x22];
        prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
        outer.append(&mut bytes);
        bytes = outer;
    }
    let layout = layouts().index_of("odd.v1.Nested").unwrap();
    let refused = push_message(layouts(), layout, &bytes, &mut Vec::new());
    assert_eq!(refused, Err(WireError::TooDeep));
}

#[test]
fn both_spellings_of_a_name_are_read() {
    for json in [json!({"wrappedBig": "7"}), json!({"wrapped_big": 7})] {
        assert_eq!(
            written(&read(json).unwrap().encode_to_vec()).unwrap()["wrappedBig"],
            "7"
        );
    }
    let problem = read(json!({"wrappedBig": 7, "wrapped_big": 7})).unwrap_err();
    assert_eq!(
        (problem.field.as_str(), problem.description.as_str()),
        ("wrapped_big", "given twice")
    );
}

#[test]
fn numbers_are_read_in_every_form_json_allows() {
    for (json, expected) in [
        (
            json!({"big": "9223372036854775807"}),
            json!("9223372036854775807"),
        ),
        (json!({"big": 1e3}), json!("1000")),
        (json!({"big": "-5.0"}), json!("-5")),
        (json!({"big": null}), json!("0")),
    ] {
        assert_eq!(
            written(&read(json).unwrap().encode_to_vec()).unwrap()["big"],
            expected
        );
    }
}

#[test]
fn what_is_wrong_is_named_by_its_path() {
    for (json, field, about) in [
        (
            json!({"unknown": 1}),
            "unknown",
            "no such field in Everything",
        ),
        (
            json!({"nested": {"numbr": 1}}),
            "nested.numbr",
            "no such field in Nested",
        ),
        (
            json!({"many": [{}, {"number": "x"}]}),
            "many[1].number",
            "expected a 32-bit integer",
        ),
        (
            json!({"small": 3_000_000_000u32}),
            "small",
            "expected a 32-bit integer",
        ),
        (
            json!({"count": -1}),
            "count",
            "expected a unsigned 32-bit integer",
        ),
        (
            json!({"huge": 1.5}),
            "huge",
            "expected a unsigned 64-bit integer",
        ),
        (
            json!({"flag": "yes"}),
            "flag",
            "expected true or false, got a string",
        ),
        (
            json!({"text": 7}),
            "text",
            "expected a string, got a number",
        ),
        (
            json!({"texts": "a"}),
            "texts",
            "expected a list, got a string",
        ),
        (
            json!({"texts": ["a", null]}),
            "texts[1]",
            "expected a string, got null",
        ),
        (
            json!({"nested": []}),
            "nested",
            "expected an object, got a list",
        ),
        (
            json!({"labels": {"a": 1}}),
            "labels[\"a\"]",
            "expected a string, got a number",
        ),
        (
            json!({"byNumber": {"x": {}}}),
            "by_number[\"x\"]",
            "expected a 32-bit integer",
        ),
        (
            json!({"kind": "ROUND"}),
            "kind",
            "none of KIND_UNSPECIFIED, KIND_ROUND",
        ),
        (
            json!({"when": "yesterday"}),
            "when",
            "expected a time such as",
        ),
        (
            json!({"when": 7}),
            "when",
            "expected a string, got a number",
        ),
        (
            json!({"howLong": "1 hour"}),
            "how_long",
            "expected a duration such as",
        ),
        (json!({"raw": "???"}), "raw", "expected base64"),
        (json!({"ratio": 1e300}), "ratio", "out of range"),
        (
            json!({"choiceText": "a", "choiceBig": 1}),
            "choice_text",
            "together with choice_big",
        ),
        (json!([]), "", "expected an object, got a list"),
    ] {
        let problem = read(json.clone()).unwrap_err();
        assert_eq!(problem.field, field, "{json}: {problem:?}");
        assert!(problem.description.contains(about), "{json}: {problem:?}");
    }
}

#[test]
fn masks_are_read_in_both_spellings() {
    let mask = |text: &str| {
        let message = read(json!({"mask": text})).unwrap();
        let bytes = message.encode_to_vec();
        let message = DynamicMessage::decode(everything(), bytes.as_slice()).unwrap();
        let mask = message.get_field_by_name("mask").unwrap().into_owned();
        let paths = mask
            .as_message()
            .unwrap()
            .get_field_by_name("paths")
            .unwrap()
            .into_owned();
        let paths = paths.as_list().unwrap();
        paths
            .iter()
            .map(|p| p.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        mask("displayName,nested.deeperStill"),
        ["display_name", "nested.deeper_still"]
    );
    assert_eq!(mask(" display_name , note,"), ["display_name", "note"]);
    assert!(mask("").is_empty());
}

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        ".{0,12}".prop_map(Json::from),
        Just(json!("2026-01-31T12:00:00Z")),
    ];
    let names: Vec<String> = everything()
        .fields()
        .map(|f| f.json_name().to_owned())
        .collect();
    leaf.prop_recursive(5, 64, 6, move |inner| {
        let name = prop_oneof![proptest::sample::select(names.clone()), ".{0,6}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map(name, inner, 0..5)
                .prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_json_is_a_message_or_an_error(json in any_json()) {
        if let Ok(message) = read(json) {
            let bytes = message.encode_to_vec();
            prop_assert_eq!(written(&bytes).ok(), oracle(&bytes));
        }
    }

    #[test]
    fn any_bytes_are_json_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let (Ok(json), Some(expected)) = (written(&bytes), oracle(&bytes)) {
            prop_assert_eq!(json, expected);
        }
    }
}
