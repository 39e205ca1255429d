//! The lines of `corelane script`: one JSON object asks, one answers. Pure.
//!
//! ```text
//!   {"s":1,"op":"put","key":"a","value":"1"}           {"s":1,"ok":{},"ts":"1790000000.000000000"}
//!   {"s":2,"op":"get","key":"a"}                       {"s":2,"ok":{"value":"1"},"ts":"…"}
//!   {"s":1,"op":"cas","key":"a","from":"2","to":"3"}   {"s":1,"fail":{"code":"C2001",…,"found":"1"},"ts":"…"}
//! ```
//!
//! `ok`: it happened. `fail`: it definitely did not. `unknown`: it may have happened, and may still happen.
//!
//! | op | fields | answer |
//! |---|---|---|
//! | `get` | `key`, `at`?, `for_update`? | `value`, null when absent |
//! | `put` | `key`, `value` | – |
//! | `delete` | `key` | – |
//! | `append` | `key`, `value` | `value` afterwards: the elements, separated by commas |
//! | `cas` | `key`, `from` (null: absent), `to` | – |
//! | `add` | `key`, `value`, `min`?, `max`? | `value` afterwards: a number |
//! | `scan` | `start`?, `end`?, `prefix`?, `limit`?, `reverse`?, `at`? | `rows` |
//! | `begin` | `iso`? (`snapshot`, `serializable`, `strict`), `name`? | – |
//! | `commit` | – | – |
//! | `abort`, or `rollback` | – | – |
//! | `outcome` | – | `outcome` of the session's last commit that was answered by `unknown`: `committed`, `aborted`, `forgotten` |
//! | `wait` | `s`? | none: no line is read until the steps of the session, or all steps, are answered |
//!
//! Between `begin` and its end the operations of a session are those of its transaction. They have no `ts` there: the transaction's is
//! that of its commit. `at` and `reverse` are for outside, `for_update` is for inside. What fails with `"aborted":true` was the end of
//! the transaction, of which nothing happened; further operations fail in the same way until `abort` or `commit`. A conflict says who met
//! whom on which key.
//!
//! Keys and values are text or numbers; for other bytes each field also exists with `_hex` behind its name. `s` names the
//! session, by a number or a text, `id` comes back with the answer, `timeout_ms` bounds one operation.

use crate::bytes::parse_hex;
use crate::output::Object;
use base::Timestamp;
use core::fmt;
use corelane::Isolation;
use serde_json::{Map, Value};

/// Names a session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Number(u64),
    Text(String),
}

impl Name {
    fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::Text(text.clone())),
            Value::Number(number) => number.as_u64().map(Self::Number),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Number(number) => Value::from(*number),
            Self::Text(text) => Value::from(text.as_str()),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// An operation.
    Ask(Request),
    /// The next line is not to be read before the operations of this session, or of all, are answered.
    Wait(Option<Name>),
}

/// One operation of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// The session, zero when not named.
    pub(crate) session: Name,
    /// Comes back with the answer.
    pub(crate) id: Option<Value>,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) op: Op,
}

/// An operation, in or outside of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Get {
        key: Vec<u8>,
        at: Option<Timestamp>,
        for_update: bool,
    },
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Delete {
        key: Vec<u8>,
    },
    Append {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Cas {
        key: Vec<u8>,
        from: Option<Vec<u8>>,
        to: Vec<u8>,
    },
    Add {
        key: Vec<u8>,
        delta: i64,
        min: i64,
        max: i64,
    },
    Scan {
        start: Vec<u8>,
        end: Option<Vec<u8>>,
        limit: u64,
        reverse: bool,
        at: Option<Timestamp>,
    },
    Begin {
        isolation: Isolation,
        /// For errors, of other transactions too.
        name: Option<String>,
    },
    Commit,
    Abort,
    Outcome,
}

impl Op {
    /// Whether it may change something.
    pub(crate) fn is_write(&self) -> bool {
        match self {
            Self::Get { .. } | Self::Scan { .. } | Self::Begin { .. } | Self::Abort | Self::Outcome => false,
            Self::Put { .. }
            | Self::Delete { .. }
            | Self::Append { .. }
            | Self::Cas { .. }
            | Self::Add { .. }
            | Self::Commit => true,
        }
    }
}

/// A line that asks for nothing; what of it could be read goes back with the refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) session: Name,
    pub(crate) id: Option<Value>,
    pub(crate) why: String,
}

/// Rows that a scan returns unless told otherwise.
const SCAN_LIMIT: u64 = 10_000;

/// Reads one line.
pub(crate) fn parse(line: &str) -> Result<Line, Refusal> {
    let nobody = |why: String| Refusal {
        session: Name::Number(0),
        id: None,
        why,
    };
    let value: Value = serde_json::from_str(line).map_err(|error| nobody(format!("not JSON: {error}")))?;
    let Value::Object(fields) = value else {
        return Err(nobody("not a JSON object".to_owned()));
    };
    let named = fields.get("s").map(Name::parse);
    let session = named.clone().flatten().unwrap_or(Name::Number(0));
    let id = fields.get("id").cloned();
    let read = || {
        if named == Some(None) {
            return Err("`s` is neither a number nor a text".to_owned());
        }
        let name = fields.get("op").and_then(Value::as_str);
        match name.ok_or("`op` is missing")? {
            "wait" => Ok(Line::Wait(named.clone().flatten())),
            name => Ok(Line::Ask(Request {
                session: session.clone(),
                id: id.clone(),
                timeout_ms: natural(&fields, "timeout_ms")?,
                op: operation(name, &fields)?,
            })),
        }
    };
    read().map_err(|why| Refusal {
        session: session.clone(),
        id: id.clone(),
        why,
    })
}

fn operation(name: &str, fields: &Map<String, Value>) -> Result<Op, String> {
    let key = || required(fields, "key");
    Ok(match name {
        "get" => Op::Get {
            key: key()?,
            at: timestamp(fields)?,
            for_update: truth(fields, "for_update")?,
        },
        "put" => Op::Put {
            key: key()?,
            value: required(fields, "value")?,
        },
        "delete" => Op::Delete { key: key()? },
        "append" => Op::Append {
            key: key()?,
            value: required(fields, "value")?,
        },
        "cas" => Op::Cas {
            key: key()?,
            from: bytes(fields, "from")?,
            to: required(fields, "to")?,
        },
        "add" => Op::Add {
            key: key()?,
            delta: whole(fields, "value")?.ok_or("`value` is missing")?,
            min: whole(fields, "min")?.unwrap_or(i64::MIN),
            max: whole(fields, "max")?.unwrap_or(i64::MAX),
        },
        "scan" => scan(fields)?,
        "begin" => Op::Begin {
            isolation: isolation(fields)?,
            name: text(fields, "name")?,
        },
        "commit" => Op::Commit,
        "abort" | "rollback" => Op::Abort,
        "outcome" => Op::Outcome,
        other => return Err(format!("there is no operation `{other}`")),
    })
}

fn isolation(fields: &Map<String, Value>) -> Result<Isolation, String> {
    match text(fields, "iso")?.as_deref() {
        None | Some("snapshot") => Ok(Isolation::Snapshot),
        Some("serializable") => Ok(Isolation::Serializable),
        Some("strict") => Ok(Isolation::StrictSerializable),
        Some(other) => Err(format!(
            "there is no isolation `{other}`, only snapshot, serializable and strict"
        )),
    }
}

fn scan(fields: &Map<String, Value>) -> Result<Op, String> {
    let (mut start, mut end) = (bytes(fields, "start")?.unwrap_or_default(), bytes(fields, "end")?);
    if let Some(prefix) = bytes(fields, "prefix")? {
        if !start.is_empty() || end.is_some() {
            return Err("`prefix` excludes `start` and `end`".to_owned());
        }
        end = base::key::prefix_end(&prefix);
        start = prefix;
    }
    let limit = natural(fields, "limit")?.unwrap_or(SCAN_LIMIT);
    Ok(Op::Scan {
        start,
        end,
        limit,
        reverse: truth(fields, "reverse")?,
        at: timestamp(fields)?,
    })
}

fn required(fields: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    bytes(fields, name)?.ok_or_else(|| format!("`{name}` is missing"))
}

/// A field's bytes: text, a number's digits, or digits in the field with `_hex` behind its name. Null is none.
fn bytes(fields: &Map<String, Value>, name: &str) -> Result<Option<Vec<u8>>, String> {
    match (fields.get(name), fields.get(&format!("{name}_hex"))) {
        (None | Some(Value::Null), None) => Ok(None),
        (Some(Value::String(text)), None) => Ok(Some(text.clone().into_bytes())),
        (Some(Value::Number(number)), None) => Ok(Some(number.to_string().into_bytes())),
        (None, Some(Value::String(hex))) => parse_hex(hex.as_bytes())
            .map(Some)
            .map_err(|error| format!("`{name}_hex`: {error}")),
        _ => Err(format!("`{name}` is neither text nor a number")),
    }
}

fn truth(fields: &Map<String, Value>, name: &str) -> Result<bool, String> {
    match fields.get(name) {
        None => Ok(false),
        Some(value) => value
            .as_bool()
            .ok_or_else(|| format!("`{name}` is neither true nor false")),
    }
}

fn text(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("`{name}` is no text")),
    }
}

fn natural(fields: &Map<String, Value>, name: &str) -> Result<Option<u64>, String> {
    match fields.get(name) {
        None => Ok(None),
        Some(value) => value
            .as_u64()
            .map(Some)
            .ok_or_else(|| format!("`{name}` is not a natural number")),
    }
}

/// A number with a sign, or the text of one.
fn whole(fields: &Map<String, Value>, name: &str) -> Result<Option<i64>, String> {
    let number = match fields.get(name) {
        None => return Ok(None),
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_i64(),
    };
    number
        .map(Some)
        .ok_or_else(|| format!("`{name}` is not a number of 64 bits"))
}

fn timestamp(fields: &Map<String, Value>) -> Result<Option<Timestamp>, String> {
    match fields.get("at") {
        None => Ok(None),
        Some(Value::String(text)) => text.parse().map(Some).map_err(|error| format!("`at`: {error}")),
        Some(_) => Err("`at` is a timestamp in text".to_owned()),
    }
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It happened.
    Ok { result: Value, ts: Option<Timestamp> },
    /// It definitely did not.
    Fail { reason: Value, ts: Option<Timestamp> },
    /// It may have.
    Unknown { reason: Value },
}

impl Answer {
    /// Nothing was done, because the line is wrong.
    pub(crate) fn invalid(why: &str) -> Self {
        let reason = Object::new().set("code", "C1100").set("what", why).build();
        Self::Fail { reason, ts: None }
    }

    /// The line that answers request `id` of `session`.
    pub(crate) fn line(self, session: &Name, id: Option<Value>) -> Value {
        let (name, content, ts) = match self {
            Self::Ok { result, ts } => ("ok", result, ts),
            Self::Fail { reason, ts } => ("fail", reason, ts),
            Self::Unknown { reason } => ("unknown", reason, None),
        };
        let mut line = Object::new().set("s", session.value());
        if let Some(id) = id {
            line = line.set("id", id);
        }
        line = line.set(name, content);
        if let Some(ts) = ts {
            line = line.ts(ts);
        }
        line.build()
    }
}

/// The answer to a line that asks for nothing.
pub(crate) fn refused(refusal: Refusal) -> Value {
    Answer::invalid(&refusal.why).line(&refusal.session, refusal.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(line: &str) -> Request {
        match parse(line) {
            Ok(Line::Ask(request)) => request,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn op(line: &str) -> Op {
        ask(line).op
    }

    fn why(line: &str) -> String {
        parse(line).unwrap_err().why
    }

    #[test]
    fn operations_are_read() {
        assert_eq!(
            op(r#"{"op":"get","key":7}"#),
            Op::Get {
                key: b"7".to_vec(),
                at: None,
                for_update: false
            }
        );
        assert_eq!(
            op(r#"{"op":"put","key":"a","value_hex":"00ff"}"#),
            Op::Put {
                key: b"a".to_vec(),
                value: vec![0, 255]
            }
        );
        assert_eq!(
            op(r#"{"op":"cas","key":"a","from":null,"to":"x"}"#),
            Op::Cas {
                key: b"a".to_vec(),
                from: None,
                to: b"x".to_vec()
            }
        );
        assert_eq!(
            op(r#"{"op":"scan","prefix":"u/","limit":2,"reverse":true,"at":"5.5"}"#),
            Op::Scan {
                start: b"u/".to_vec(),
                end: Some(b"u0".to_vec()),
                limit: 2,
                reverse: true,
                at: Some(Timestamp::new(5_500_000_000, 0))
            }
        );
        assert_eq!(
            op(r#"{"op":"add","key":"n","value":-3,"min":"0"}"#),
            Op::Add {
                key: b"n".to_vec(),
                delta: -3,
                min: 0,
                max: i64::MAX
            }
        );
        let request = ask(r#"{"s":3,"id":"x9","op":"delete","key":"k","timeout_ms":250}"#);
        assert_eq!(
            (request.session, request.id, request.timeout_ms),
            (Name::Number(3), Some(Value::from("x9")), Some(250))
        );
        let request = ask(r#"{"s":"t1","op":"begin","iso":"strict","name":"pay"}"#);
        assert_eq!(request.session, Name::Text("t1".to_owned()));
        assert_eq!(
            request.op,
            Op::Begin {
                isolation: Isolation::StrictSerializable,
                name: Some("pay".to_owned())
            }
        );
        assert_eq!(op(r#"{"op":"rollback"}"#), Op::Abort);
        assert_eq!(parse(r#"{"op":"wait"}"#), Ok(Line::Wait(None)));
        assert_eq!(
            parse(r#"{"op":"wait","s":4}"#),
            Ok(Line::Wait(Some(Name::Number(4))))
        );
    }

    #[test]
    fn refusals_say_why_and_keep_the_session() {
        assert_eq!(why(r#"{"op":"get"}"#), "`key` is missing");
        assert_eq!(
            why(r#"{"op":"get","key":[1]}"#),
            "`key` is neither text nor a number"
        );
        assert_eq!(
            why(r#"{"op":"get","key":"a","key_hex":"61"}"#),
            "`key` is neither text nor a number"
        );
        assert_eq!(
            why(r#"{"op":"begin","iso":"chaos"}"#),
            "there is no isolation `chaos`, only snapshot, serializable and strict"
        );
        assert_eq!(
            why(r#"{"op":"scan","prefix":"a","end":"b"}"#),
            "`prefix` excludes `start` and `end`"
        );
        assert_eq!(
            why(r#"{"s":[1],"op":"get","key":"a"}"#),
            "`s` is neither a number nor a text"
        );
        assert_eq!(
            why(r#"{"op":"add","key":"n","value":"x"}"#),
            "`value` is not a number of 64 bits"
        );
        assert!(why("[").starts_with("not JSON"));
        let refusal = parse(r#"{"s":4,"id":1,"op":"fly"}"#).unwrap_err();
        let expected = r#"{"fail":{"code":"C1100","what":"there is no operation `fly`"},"id":1,"s":4}"#;
        assert_eq!(refused(refusal).to_string(), expected);
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in "[\\[{}\":,a-z0-9 ]{0,60}") {
            let _ = parse(&line);
        }
    }
}
