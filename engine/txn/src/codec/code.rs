//! How single values are written and read, and the words of the tables in `layout.rs`.

use super::CodecError;
use crate::txn::{Bytes, Epoch, Seq, Who};
use base::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use base::{ClientId, Timestamp};
use std::borrow::Cow;
use std::sync::Arc;

/// A way to write values. Most types are their own; [`Bytes`] have three, by what they are.
pub(super) trait Code {
    /// What is written and read.
    type Out;

    fn put(value: &Self::Out, out: &mut Vec<u8>);

    /// Takes a value off the front. At least one byte of it, or it is an error.
    fn take(input: &mut Input<'_>, what: &'static str) -> Result<Self::Out, CodecError>;
}

/// How many of the last keys are remembered.
const KEYS_KNOWN: usize = 4;

/// Bytes that were not read yet.
///
/// An entry of the log names its transaction in each intent and in the record, and each key as a key, a promise and a lock. What was
/// read once is shared by all of them: it is what most of the work would be spent on.
pub(super) struct Input<'a> {
    rest: &'a [u8],
    whole: usize,
    /// How long a list may be.
    list_max: usize,
    /// The last transaction, and its bytes.
    who: Option<(&'a [u8], Arc<Who>)>,
    keys: [Option<Bytes>; KEYS_KNOWN],
    next_key: usize,
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8], list_max: usize) -> Self {
        Self {
            list_max,
            rest: bytes,
            whole: bytes.len(),
            who: None,
            keys: [const { None }; KEYS_KNOWN],
            next_key: 0,
        }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn at(&self) -> usize {
        self.whole - self.rest.len()
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CodecError> {
        let at = self.at();
        let short = CodecError { what, why: SHORT, at };
        let (head, rest) = self.rest.split_first_chunk().ok_or(short)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn byte(&mut self, what: &'static str) -> Result<u8, CodecError> {
        self.array(what).map(|[byte]| byte)
    }

    fn number(&mut self, what: &'static str) -> Result<u64, CodecError> {
        let at = self.at();
        let wrong = |why| CodecError { what, why, at };
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(wrong(SHORT))?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(wrong(GREAT));
            }
            value |= bits << shift;
            if byte < 0x80 {
                let is_shortest = byte != 0 || shift == 0;
                return is_shortest.then_some(value).ok_or(wrong("has a longer form"));
            }
        }
        Err(wrong(GREAT))
    }

    fn small<N: TryFrom<u64>>(&mut self, what: &'static str) -> Result<N, CodecError> {
        let at = self.at();
        let great = CodecError { what, why: GREAT, at };
        N::try_from(self.number(what)?).map_err(|_| great)
    }

    fn bytes(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], CodecError> {
        let at = self.at();
        let wrong = |why| CodecError { what, why, at };
        let len: usize = self.small(what)?;
        if len > max {
            return Err(wrong("is too long"));
        }
        let (head, rest) = self.rest.split_at_checked(len).ok_or(wrong(SHORT))?;
        self.rest = rest;
        Ok(head)
    }

    fn key(&mut self, what: &'static str, max: usize) -> Result<Bytes, CodecError> {
        let bytes = self.bytes(what, max)?;
        let mut known = self.keys.iter().flatten();
        if let Some(known) = known.find(|known| ***known == *bytes) {
            return Ok(known.clone());
        }
        let key = shared(bytes);
        self.keys[self.next_key % KEYS_KNOWN] = Some(key.clone());
        self.next_key += 1;
        Ok(key)
    }

    fn text(&mut self, what: &'static str) -> Result<&'a str, CodecError> {
        let at = self.at();
        let why = "is no text";
        str::from_utf8(self.bytes(what, usize::MAX)?).map_err(|_| CodecError { what, why, at })
    }

    /// How many of a list there are.
    fn count(&mut self, what: &'static str) -> Result<usize, CodecError> {
        let at = self.at();
        let len: usize = self.small(what)?;
        let wrong = |why| Err(CodecError { what, why, at });
        if len > self.rest.len() {
            return wrong("says more than there is");
        }
        if len > self.list_max {
            return wrong(GREAT);
        }
        Ok(len)
    }

    fn list<C: Code>(&mut self, what: &'static str) -> Result<Vec<C::Out>, CodecError> {
        let len = self.count(what)?;
        let room = self.rest.len() / size_of::<C::Out>().max(1);
        let mut list = Vec::with_capacity(len.min(room));
        for _ in 0..len {
            list.push(C::take(self, what)?);
        }
        Ok(list)
    }

    /// As a list, one by one.
    pub(super) fn each<C: Code>(
        &mut self,
        what: &'static str,
        mut each: impl FnMut(C::Out),
    ) -> Result<(), CodecError> {
        for _ in 0..self.count(what)? {
            each(C::take(self, what)?);
        }
        Ok(())
    }
}

const SHORT: &str = "is cut short";
const GREAT: &str = "is too great";
pub(super) const TAG: &str = "has an unknown tag";

fn put_number(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_number(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

pub(super) fn put_list<C: Code>(list: &[C::Out], out: &mut Vec<u8>) {
    put_number(list.len() as u64, out);
    for value in list {
        C::put(value, out);
    }
}

/// The bytes of a key.
pub(super) struct Key;
/// The bytes of a bound between keys.
pub(super) struct Bound;
/// The bytes of a value.
pub(super) struct Value;

/// A copy. Nothing takes no memory.
fn shared(bytes: &[u8]) -> Bytes {
    if bytes.is_empty() {
        Bytes::default()
    } else {
        bytes.into()
    }
}

macro_rules! bytes {
    ($($as:ident: $max:expr, $take:expr);+ $(;)?) => { $(
        impl Code for $as {
            type Out = Bytes;

            fn put(value: &Bytes, out: &mut Vec<u8>) {
                put_bytes(value, out);
            }

            fn take(input: &mut Input<'_>, what: &'static str) -> Result<Bytes, CodecError> {
                $take(input, what, $max)
            }
        }
    )+ };
}

bytes! {
    Key: KEY_BYTES_MAX, Input::key;
    Bound: KEY_BYTES_MAX + 1, Input::key;
    Value: VALUE_BYTES_MAX, |input: &mut Input<'_>, what, max| input.bytes(what, max).map(shared);
}

macro_rules! texts {
    ($($text:ty: $from:expr);+ $(;)?) => { $(
        impl Code for $text {
            type Out = Self;

            fn put(value: &Self, out: &mut Vec<u8>) {
                put_bytes(value.as_bytes(), out);
            }

            fn take(input: &mut Input<'_>, what: &'static str) -> Result<Self, CodecError> {
                let text = input.text(what)?;
                Ok(if text.is_empty() { Self::default() } else { $from(text) })
            }
        }
    )+ };
}

texts! {
    Arc<str>: Arc::from;
    Cow<'static, str>: |text: &str| Cow::Owned(text.to_owned());
}

macro_rules! numbers {
    ($($number:ty: $value:ident => $wide:expr, $back:expr);+ $(;)?) => { $(
        impl Code for $number {
            type Out = Self;

            fn put($value: &Self, out: &mut Vec<u8>) {
                put_number($wide, out);
            }

            fn take(input: &mut Input<'_>, what: &'static str) -> Result<Self, CodecError> {
                input.small(what).map($back)
            }
        }
    )+ };
}

numbers! {
    u32: value => u64::from(*value), |value| value;
    u64: value => *value, |value| value;
    usize: value => *value as u64, |value| value;
    Seq: value => u64::from(value.0), Seq;
    Epoch: value => u64::from(value.0), Epoch;
}

impl Code for bool {
    type Out = Self;

    fn put(value: &Self, out: &mut Vec<u8>) {
        out.push(u8::from(*value));
    }

    fn take(input: &mut Input<'_>, what: &'static str) -> Result<Self, CodecError> {
        let at = input.at();
        match input.byte(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError { what, why: TAG, at }),
        }
    }
}

impl Code for Timestamp {
    type Out = Self;

    fn put(value: &Self, out: &mut Vec<u8>) {
        out.extend_from_slice(&value.wall_ns.to_le_bytes());
        out.extend_from_slice(&value.logical.to_le_bytes());
    }

    fn take(input: &mut Input<'_>, what: &'static str) -> Result<Self, CodecError> {
        let wall_ns = u64::from_le_bytes(input.array(what)?);
        Ok(Self::new(wall_ns, u32::from_le_bytes(input.array(what)?)))
    }
}

impl Code for i64 {
    type Out = Self;

    fn put(value: &Self, out: &mut Vec<u8>) {
        out.extend_from_slice(&value.to_le_bytes());
    }

    fn take(input: &mut Input<'_>, what: &'static str) -> Result<Self, CodecError> {
        input.array(what).map(Self::from_le_bytes)
    }
}

impl Code for ClientId {
    type Out = Self;

    fn put(value: &Self, out: &mut Vec<u8>) {
        out.extend_from_slice(&value.0.to_le_bytes());
    }

    fn take(input: &mut Input<'_>, what: &'static str) -> Result<Self, CodecError> {
        input.array(what).map(u128::from_le_bytes).map(Self)
    }
}

impl<C: Code> Code for Option<C> {
    type Out = Option<C::Out>;

    fn put(value: &Self::Out, out: &mut Vec<u8>) {
        bool::put(&value.is_some(), out);
        if let Some(value) = value {
            C::put(value, out);
        }
    }

    fn take(input: &mut Input<'_>, what: &'static str) -> Result<Self::Out, CodecError> {
        bool::take(input, what)?.then(|| C::take(input, what)).transpose()
    }
}

/// An enum of two variants.
impl<C: Code, D: Code> Code for Result<C, D> {
    type Out = Result<C::Out, D::Out>;

    fn put(value: &Self::Out, out: &mut Vec<u8>) {
        match value {
            Ok(value) => {
                out.push(1);
                C::put(value, out);
            }
            Err(value) => {
                out.push(2);
                D::put(value, out);
            }
        }
    }

    fn take(input: &mut Input<'_>, what: &'static str) -> Result<Self::Out, CodecError> {
        let at = input.at();
        match input.byte(what)? {
            1 => C::take(input, what).map(Ok),
            2 => D::take(input, what).map(Err),
            _ => Err(CodecError { what, why: TAG, at }),
        }
    }
}

impl<C: Code, D: Code> Code for (C, D) {
    type Out = (C::Out, D::Out);

    fn put(value: &Self::Out, out: &mut Vec<u8>) {
        C::put(&value.0, out);
        D::put(&value.1, out);
    }

    fn take(input: &mut Input<'_>, what: &'static str) -> Result<Self::Out, CodecError> {
        Ok((C::take(input, what)?, D::take(input, what)?))
    }
}

impl<C: Code> Code for Vec<C> {
    type Out = Vec<C::Out>;

    fn put(value: &Self::Out, out: &mut Vec<u8>) {
        put_list::<C>(value, out);
    }

    fn take(input: &mut Input<'_>, what: &'static str) -> Result<Self::Out, CodecError> {
        input.list::<C>(what)
    }
}

impl<C: Code> Code for Arc<[C]> {
    type Out = Arc<[C::Out]>;

    fn put(value: &Self::Out, out: &mut Vec<u8>) {
        put_list::<C>(value, out);
    }

    fn take(input: &mut Input<'_>, what: &'static str) -> Result<Self::Out, CodecError> {
        let list = input.list::<C>(what)?;
        Ok(if list.is_empty() {
            Arc::default()
        } else {
            list.into()
        })
    }
}

impl Code for Arc<Who> {
    type Out = Self;

    fn put(value: &Self, out: &mut Vec<u8>) {
        Who::put(value, out);
    }

    fn take(input: &mut Input<'_>, what: &'static str) -> Result<Self, CodecError> {
        // A value has one encoding, and none is the beginning of another one.
        if let Some((bytes, who)) = &input.who
            && let Some(rest) = input.rest.strip_prefix(*bytes)
        {
            input.rest = rest;
            return Ok(who.clone());
        }
        let from = input.rest;
        let who = Self::new(Who::take(input, what)?);
        let bytes = &from[..from.len() - input.rest.len()];
        input.who = Some((bytes, who.clone()));
        Ok(who)
    }
}

impl<C: Code> Code for Box<C> {
    type Out = Box<C::Out>;

    fn put(value: &Self::Out, out: &mut Vec<u8>) {
        C::put(value, out);
    }

    fn take(input: &mut Input<'_>, what: &'static str) -> Result<Self::Out, CodecError> {
        C::take(input, what).map(Box::new)
    }
}

/// A struct: its fields in this order.
macro_rules! fields {
    ($type:ident { $($field:ident: $as:ty),+ $(,)? }) => {
        impl Code for $type {
            type Out = Self;

            fn put(value: &Self, out: &mut Vec<u8>) {
                let Self { $($field),+ } = value;
                $(<$as as Code>::put($field, out);)+
            }

            fn take(input: &mut Input<'_>, _what: &'static str) -> Result<Self, CodecError> {
                Ok(Self {
                    $($field: <$as as Code>::take(
                        input,
                        concat!(stringify!($type), ".", stringify!($field)),
                    )?),+
                })
            }
        }
    };
}

/// An enum: the tag of each variant, then its fields in this order. Those without names have them here.
macro_rules! variants {
    ($type:ident { $(
        $tag:literal => $variant:ident
            $({ $($field:ident: $as:ty),+ $(,)? })?
            $(( $($place:ident: $place_as:ty),+ ))?
    ),+ $(,)? }) => {
        impl Code for $type {
            type Out = Self;

            fn put(value: &Self, out: &mut Vec<u8>) {
                match value {
                    $(Self::$variant $({ $($field),+ })? $(( $($place),+ ))? => {
                        out.push($tag);
                        $($(<$as as Code>::put($field, out);)+)?
                        $($(<$place_as as Code>::put($place, out);)+)?
                    })+
                }
            }

            fn take(input: &mut Input<'_>, _what: &'static str) -> Result<Self, CodecError> {
                let at = input.at();
                let what = stringify!($type);
                match input.byte(what)? {
                    $($tag => Ok(Self::$variant
                        $({ $($field: <$as as Code>::take(
                            input,
                            concat!(stringify!($type), "::", stringify!($variant), ".", stringify!($field)),
                        )?),+ })?
                        $(( $(<$place_as as Code>::take(
                            input,
                            concat!(stringify!($type), "::", stringify!($variant), ".", stringify!($place)),
                        )?),+ ))?
                    ),)+
                    _ => Err(CodecError { what, why: TAG, at }),
                }
            }
        }
    };
}

pub(super) use {fields, variants};
