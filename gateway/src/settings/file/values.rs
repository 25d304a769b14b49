//! From what stands in the file to what it means, or one line that says why it means nothing.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use http::HeaderValue;
use ipnet::IpNet;
use url::Url;

use super::NumberOrWord;
use crate::normalize::{encode, normalize};
use crate::settings::{EncodedSlash, Operation};
use crate::upstream::Endpoint;

type Parsed<T> = Result<T, String>;

/// The longest name, prefix included, that ends in a metric's label.
const LABEL: usize = 64;
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// A number within bounds, which `T` can hold.
pub(super) fn number<T: TryFrom<i64>>(bounds: RangeInclusive<i64>) -> impl FnOnce(i64) -> Parsed<T> {
    move |number| {
        let found = if bounds.contains(&number) { T::try_from(number).ok() } else { None };
        found.ok_or_else(|| format!("{number} is not from {} to {}", bounds.start(), bounds.end()))
    }
}

/// A number within bounds, or the word `off`.
pub(super) fn number_or_off<T: TryFrom<i64>>(
    bounds: RangeInclusive<i64>,
) -> impl FnOnce(NumberOrWord) -> Parsed<Option<T>> {
    move |given| match given {
        NumberOrWord::Number(given) => number(bounds)(given).map(Some),
        NumberOrWord::Word(word) if word == "off" => Ok(None),
        NumberOrWord::Word(word) => Err(format!("{word:?} is neither a number nor \"off\"")),
    }
}

/// What `parse` takes, or the word `off`.
pub(super) fn or_off<T>(parse: impl FnOnce(String) -> Parsed<T>) -> impl FnOnce(String) -> Parsed<Option<T>> {
    move |text| {
        if text == "off" {
            return Ok(None);
        }
        parse(text).map(Some).map_err(|why| format!("{why}, and not \"off\""))
    }
}

/// A type with a notation of its own.
pub(super) fn parsed<T: FromStr<Err: Display>>(text: String) -> Parsed<T> {
    text.parse().map_err(|why: T::Err| why.to_string())
}

/// One of a few words.
pub(super) fn word<T: ValueEnum>(text: String) -> Parsed<T> {
    T::from_str(&text, false).map_err(|_| {
        let words = T::value_variants().iter().filter_map(|variant| variant.to_possible_value());
        let words: Vec<String> = words.map(|value| format!("{:?}", value.get_name())).collect();
        format!("{text:?} is not {}", words.join(" or "))
    })
}

/// A span between a millisecond and a day.
pub(super) fn duration(text: String) -> Parsed<Duration> {
    let span = humantime::parse_duration(&text)
        .map_err(|_| format!("{text:?} is not a duration such as \"15s\" or \"500ms\""))?;
    if (SHORTEST..=LONGEST).contains(&span) {
        Ok(span)
    } else {
        Err(format!("{text:?} is not from 1ms to 24h"))
    }
}

/// A part of a whole.
pub(super) fn share(number: f64) -> Parsed<f64> {
    if (0.0..=1.0).contains(&number) { Ok(number) } else { Err(format!("{number} is not from 0 to 1")) }
}

/// Where to listen.
pub(super) fn host_port(text: String) -> Parsed<String> {
    let sound = |(host, port): (&str, &str)| !host.is_empty() && port.parse::<u16>().is_ok();
    if text.rsplit_once(':').is_some_and(sound) {
        Ok(text)
    } else {
        Err(format!("{text:?} is not of the form host:port"))
    }
}

/// Where a service is. Unlike where to listen, its port cannot be 0.
pub(super) fn address(text: String) -> Parsed<Endpoint> {
    if Url::parse(&text).is_ok_and(|url| url.port() == Some(0)) {
        return Err(format!("{text:?} has no port that could be asked"));
    }
    parsed(text)
}

/// A file's path.
pub(super) fn path(path: PathBuf) -> Parsed<PathBuf> {
    if path.as_os_str().is_empty() { Err("it is empty".to_owned()) } else { Ok(path) }
}

/// A range of addresses.
pub(super) fn network(text: String) -> Parsed<IpNet> {
    text.parse().map_err(|_| format!("{text:?} is not a range such as \"10.0.0.0/8\""))
}

/// An origin, letter for letter as browsers send it: it is compared as a whole.
pub(super) fn origin(text: String) -> Parsed<HeaderValue> {
    let refusal = || format!("{text:?} is not of the form scheme://host or scheme://host:port");
    let url = Url::parse(&text).map_err(|_| refusal())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refusal());
    }
    let sent = url.origin().ascii_serialization();
    if sent != text {
        return Err(format!("{text:?} is not what a browser sends; that would be {sent:?}"));
    }
    text.parse().map_err(|_| refusal())
}

/// A name that ends in metrics.
pub(super) fn name(text: String) -> Parsed<String> {
    if is_token(&text) && text.len() <= LABEL {
        Ok(text)
    } else {
        Err(format!("{text:?} is not a name: 1 to {LABEL} of letters, digits, \".\", \"_\", \"-\""))
    }
}

/// The segments that a route takes away, as they look in normal form.
pub(super) fn prefix(text: String) -> Parsed<String> {
    let inner = text.strip_prefix('/').and_then(|text| text.strip_suffix('/'));
    let normal = |inner: &str| {
        inner.split('/').all(|segment| is_token(segment) && segment.bytes().any(|byte| byte != b'.'))
    };
    if inner.is_some_and(normal) && text.len() <= LABEL {
        Ok(text)
    } else {
        Err(format!(
            "{text:?} is not of the form /name/ or /a/b/: up to {LABEL} of letters, digits, \".\", \"_\", \"-\""
        ))
    }
}

/// A method and a path that requests can have.
pub(super) fn operation(text: String) -> Parsed<Operation> {
    let operation: Operation = parsed(text)?;
    let normal = normalize(operation.path.as_bytes(), EncodedSlash::Decode)
        .is_ok_and(|target| target.query.is_none() && encode(&target.path) == operation.path);
    if !normal {
        return Err(format!("{:?} is not a path in normal form, so no request has it", operation.path));
    }
    // Methods are compared with their case.
    if operation.method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(format!("{:?} is not a method in capital letters", operation.method.as_str()));
    }
    Ok(operation)
}

fn is_token(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !text.is_empty() && text.bytes().all(plain)
}
