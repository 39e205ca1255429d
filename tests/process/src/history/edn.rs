//! The part of EDN that operation maps need: nil, integers, keywords, symbols, strings, vectors and maps.

use anyhow::{Context as _, bail, ensure};

/// Vectors and maps within each other, at most.
const DEPTH_MAX: usize = 16;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edn {
    /// `nil`.
    Nil,
    /// A whole number.
    Int(i64),
    /// `:name`, without the colon; also a bare symbol such as `nemesis`.
    Keyword(String),
    /// `"text"`.
    Text(String),
    /// `[a b]`.
    Vector(Vec<Edn>),
    /// `{a b, c d}`, in the order of the text.
    Map(Vec<(Edn, Edn)>),
}

impl Edn {
    /// Reads one value, with nothing behind it.
    ///
    /// # Errors
    /// The text is not a value, or one of a kind that is not known here.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.skip();
        ensure!(
            reader.at == text.len(),
            "something stands behind the value, at byte {}",
            reader.at
        );
        Ok(value)
    }

    /// What a map has under the keyword `name`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Self> {
        let Self::Map(entries) = self else { return None };
        let mut entries = entries.iter();
        entries
            .find(|(key, _)| key.keyword() == Some(name))
            .map(|(_, value)| value)
    }

    /// The number.
    #[must_use]
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Nil | Self::Keyword(_) | Self::Text(_) | Self::Vector(_) | Self::Map(_) => None,
        }
    }

    /// The keyword's name.
    #[must_use]
    pub fn keyword(&self) -> Option<&str> {
        match self {
            Self::Keyword(name) => Some(name),
            Self::Nil | Self::Int(_) | Self::Text(_) | Self::Vector(_) | Self::Map(_) => None,
        }
    }

    /// The elements of a vector.
    #[must_use]
    pub fn vector(&self) -> Option<&[Self]> {
        match self {
            Self::Vector(elements) => Some(elements),
            Self::Nil | Self::Int(_) | Self::Keyword(_) | Self::Text(_) | Self::Map(_) => None,
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at..)?.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// Commas are blanks in EDN.
    fn skip(&mut self) {
        while self.peek().is_some_and(|c| c.is_whitespace() || c == ',') {
            self.next();
        }
    }

    fn value(&mut self, depth: usize) -> anyhow::Result<Edn> {
        ensure!(depth < DEPTH_MAX, "values within values, more than {DEPTH_MAX}");
        self.skip();
        match self.peek().context("a value is missing at the end")? {
            '[' => Ok(Edn::Vector(self.until(']', depth)?)),
            '{' => {
                let flat = self.until('}', depth)?;
                ensure!(flat.len().is_multiple_of(2), "a map has a key without a value");
                let mut entries = Vec::new();
                let mut flat = flat.into_iter();
                while let (Some(key), Some(value)) = (flat.next(), flat.next()) {
                    entries.push((key, value));
                }
                Ok(Edn::Map(entries))
            }
            '"' => self.string(),
            _ => self.atom(),
        }
    }

    fn until(&mut self, close: char, depth: usize) -> anyhow::Result<Vec<Edn>> {
        self.next();
        let mut values = Vec::new();
        loop {
            self.skip();
            if self.peek() == Some(close) {
                self.next();
                return Ok(values);
            }
            values.push(self.value(depth + 1)?);
        }
    }

    fn string(&mut self) -> anyhow::Result<Edn> {
        self.next();
        let mut text = String::new();
        loop {
            match self.next().context("a string has no end")? {
                '"' => return Ok(Edn::Text(text)),
                '\\' => text.push(self.next().context("a string has no end")?),
                c => text.push(c),
            }
        }
    }

    fn atom(&mut self) -> anyhow::Result<Edn> {
        let rest = &self.text[self.at..];
        let ends = |c: char| c.is_whitespace() || ",[]{}\"()".contains(c);
        let word = &rest[..rest.find(ends).unwrap_or(rest.len())];
        self.at += word.len();
        if word == "nil" {
            return Ok(Edn::Nil);
        }
        if let Some(name) = word.strip_prefix(':') {
            return Ok(Edn::Keyword(name.to_owned()));
        }
        match word.chars().next() {
            Some(c) if c.is_ascii_digit() || c == '-' => Ok(Edn::Int(word.parse()?)),
            Some(c) if c.is_alphabetic() => Ok(Edn::Keyword(word.to_owned())),
            Some(_) | None => bail!("`{rest}` is no value that is known here"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_maps_are_read() {
        let map = Edn::parse(r#"{:index 3, :type :ok, :value [5 nil [[:r -1 "a \" b"]]], :process nemesis}"#)
            .unwrap();
        assert_eq!(map.field("index").unwrap().int(), Some(3));
        assert_eq!(map.field("type").unwrap().keyword(), Some("ok"));
        let value = map.field("value").unwrap().vector().unwrap();
        assert_eq!(value[1], Edn::Nil);
        let Edn::Vector(inner) = &value[2] else {
            panic!("{value:?}")
        };
        assert_eq!(inner[0].vector().unwrap()[2], Edn::Text("a \" b".to_owned()));
        assert_eq!(map.field("none"), None);
    }

    #[test]
    fn what_is_no_value_is_refused() {
        let deep = "[".repeat(100);
        for bad in ["", "[1", "{1}", "\"a", "1 2", "12x", "#{1}", "(1)", deep.as_str()] {
            assert!(Edn::parse(bad).is_err(), "{bad}");
        }
    }
}
