//! Configuration files of others, whose fields are read by type.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use crate::error::{Error, Result, excerpt, listing};

/// A JSON object of settings.
///
/// A field is read through [`Field`] and in no other way: what is there and of another type, or out of range, is an error that
/// names file, field, what was expected and what was found. Only what is absent takes a default.
///
/// ```
/// use directrix_corpus::Settings;
///
/// let settings = Settings::parse("config.json", br#"{ "n_layer": 2, "bias": "yes" }"#)?;
/// assert_eq!(settings.get("n_layer")?.count(100)?, 2);
/// assert!(settings.or("tied", true, |field| field.flag())?);
/// assert!(settings.or("bias", true, |field| field.flag()).is_err());
/// # Ok::<(), directrix_corpus::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Settings {
    file: String,
    /// What stands before the names of fields in messages: the field that holds this object, if one does.
    within: String,
    fields: Map<String, Value>,
    asked: Asked,
}

/// The full names of the fields that were asked for, of a file and of every object in it.
type Asked = Arc<Mutex<BTreeSet<String>>>;

/// A field that is there.
#[derive(Clone)]
pub struct Field<'a> {
    file: &'a str,
    name: String,
    value: &'a Value,
    asked: &'a Asked,
}

impl Settings {
    /// The settings in the bytes of a file; `file` is what messages call it.
    ///
    /// # Errors
    /// [`Error::Settings`] if they are no JSON object.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Settings> {
        let wrong = |problem: String| Error::Settings { file: file.into(), problem };
        let text = bytes.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(bytes);
        match serde_json::from_slice(text) {
            Ok(Value::Object(fields)) => {
                Ok(Settings { file: file.into(), within: String::new(), fields, asked: Asked::default() })
            }
            Ok(other) => Err(wrong(format!("holds {}, expected a JSON object", shown(&other)))),
            Err(error) => Err(wrong(format!("not JSON ({})", excerpt(&error.to_string())))),
        }
    }

    /// A field that must be there.
    ///
    /// # Errors
    /// [`Error::NoSetting`] if it is not.
    pub fn get(&self, name: &str) -> Result<Field<'_>> {
        self.find(name).ok_or_else(|| Error::NoSetting { file: self.file.clone(), field: self.path(name) })
    }

    /// A field, if it is there.
    pub fn find(&self, name: &str) -> Option<Field<'_>> {
        let path = self.path(name);
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
        self.fields.get(name).map(|value| Field { file: &self.file, name: path, value, asked: &self.asked })
    }

    /// A field, if it is there and not null: where those who write the file write null for nothing.
    pub fn find_some(&self, name: &str) -> Option<Field<'_>> {
        self.find(name).filter(|field| !field.value.is_null())
    }

    /// What `read` makes of a field, or `default` where it is absent.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn or<'a, T>(&'a self, name: &str, default: T, read: impl FnOnce(Field<'a>) -> Result<T>) -> Result<T> {
        self.find(name).map_or(Ok(default), read)
    }

    /// The names of all fields.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }

    /// The full names of the fields that hold something, not null, and that nobody asked for; of an object some of whose fields
    /// were asked for, the others.
    pub fn unread(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unread = Vec::new();
        self.add_unread(&asked, &mut unread);
        unread
    }

    fn add_unread(&self, asked: &BTreeSet<String>, unread: &mut Vec<String>) {
        for (name, value) in &self.fields {
            let path = self.path(name);
            let inside = format!("{path}.");
            let is_opened = asked.range(inside.clone()..).next().is_some_and(|name| name.starts_with(&inside));
            match value {
                Value::Object(fields) if is_opened => {
                    let (file, fields, asked_of) = (self.file.clone(), fields.clone(), self.asked.clone());
                    Settings { file, within: path, fields, asked: asked_of }.add_unread(asked, unread);
                }
                Value::Null => {}
                _ if asked.contains(&path) => {}
                _ => unread.push(path),
            }
        }
    }

    /// The error of fields that do not go together.
    pub fn problem(&self, problem: impl Into<String>) -> Error {
        Error::Settings { file: self.file.clone(), problem: problem.into() }
    }

    fn path(&self, name: &str) -> String {
        if self.within.is_empty() { excerpt(name) } else { format!("{}.{}", self.within, excerpt(name)) }
    }
}

impl<'a> Field<'a> {
    /// A whole number from 1 to `most`.
    ///
    /// # Errors
    /// [`Error::Setting`] if it is something else.
    pub fn count(&self, most: usize) -> Result<usize> {
        self.whole(1, most)
    }

    /// A whole number from 0 to `most`.
    ///
    /// # Errors
    /// [`Error::Setting`] if it is something else.
    pub fn index(&self, most: usize) -> Result<usize> {
        self.whole(0, most)
    }

    fn whole(&self, least: usize, most: usize) -> Result<usize> {
        let found = self.value.as_u64().and_then(|n| usize::try_from(n).ok());
        let found = found.filter(|n| (least..=most).contains(n));
        found.ok_or_else(|| self.wrong(&format!("a whole number from {least} to {most}")))
    }

    /// A number in a range.
    ///
    /// # Errors
    /// [`Error::Setting`] if it is something else.
    pub fn number(&self, range: RangeInclusive<f64>) -> Result<f64> {
        let found = self.value.as_f64().filter(|x| range.contains(x));
        found.ok_or_else(|| self.wrong(&format!("a number from {:e} to {:e}", range.start(), range.end())))
    }

    /// True or false.
    ///
    /// # Errors
    /// [`Error::Setting`] if it is something else.
    pub fn flag(&self) -> Result<bool> {
        self.value.as_bool().ok_or_else(|| self.wrong("true or false"))
    }

    /// A string.
    ///
    /// # Errors
    /// [`Error::Setting`] if it is something else.
    pub fn text(&self) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| self.wrong("a string"))
    }

    /// A string that is one of `known`.
    ///
    /// # Errors
    /// [`Error::Setting`], with those that are known, if it is something else.
    pub fn choice(&self, known: &[&str]) -> Result<&'a str> {
        let found = self.value.as_str().filter(|found| known.contains(found));
        found.ok_or_else(|| self.wrong(&format!("one of {}", listing(known))))
    }

    /// The fields of a list.
    ///
    /// # Errors
    /// [`Error::Setting`] if it is something else.
    pub fn list(&self) -> Result<Vec<Field<'a>>> {
        let items = self.value.as_array().ok_or_else(|| self.wrong("a list"))?;
        let item =
            |(i, value)| Field { file: self.file, name: format!("{}[{i}]", self.name), value, asked: self.asked };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// The settings that it holds.
    ///
    /// # Errors
    /// [`Error::Setting`] if it is something else.
    pub fn object(&self) -> Result<Settings> {
        let fields = self.value.as_object().ok_or_else(|| self.wrong("an object"))?;
        let (file, within, asked) = (self.file.into(), self.name.clone(), self.asked.clone());
        Ok(Settings { file, within, fields: fields.clone(), asked })
    }

    /// Whether it is true or false.
    pub fn is_flag(&self) -> bool {
        self.value.is_boolean()
    }

    /// Whether it is an object.
    pub fn is_object(&self) -> bool {
        self.value.is_object()
    }

    /// Whether it is a list.
    pub fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// Whether two fields hold the same.
    pub fn is_same(&self, other: &Field) -> bool {
        self.value == other.value
    }

    /// Its name, with those of the objects and lists that it is in.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The error of a field that is not as expected.
    pub fn wrong(&self, expected: &str) -> Error {
        let (file, field) = (self.file.into(), self.name.clone());
        Error::Setting { file, field, expected: expected.into(), found: shown(self.value) }
    }
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.name, shown(self.value))
    }
}

/// A value as it is shown in a message.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{}\"", excerpt(text)),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Field, Settings};
    use crate::{Error, Result};

    fn settings(value: &Value) -> Settings {
        Settings::parse("c.json", &serde_json::to_vec(value).unwrap()).unwrap()
    }

    /// Every reading takes the values that are of its type, and refuses every other by file, field and value.
    #[test]
    fn a_value_is_read_as_its_own_type_alone() {
        type Read = fn(&Field) -> Result<String>;
        let readings: [(&str, Read); 7] = [
            ("count", |f| f.count(8).map(|n| n.to_string())),
            ("index", |f| f.index(8).map(|n| n.to_string())),
            ("number", |f| f.number(1e-9..=2e3).map(|x| x.to_string())),
            ("flag", |f| f.flag().map(|b| b.to_string())),
            ("text", |f| f.text().map(Into::into)),
            ("list", |f| f.list().map(|l| l.len().to_string())),
            ("object", |f| f.object().map(|o| o.names().count().to_string())),
        ];
        let values = [
            (json!(null), ""),
            (json!(true), "flag"),
            (json!(3), "count index number"),
            (json!(0), "index"),
            (json!(-3), ""),
            (json!(2.5), "number"),
            (json!(9), "number"),
            (json!(2_147_483_647_u64), ""),
            (json!(1_u64 << 63), ""),
            (json!("3"), "text"),
            (json!([1, 2]), "list"),
            (json!({ "a": 1 }), "object"),
        ];
        for (value, taken) in values {
            let settings = settings(&json!({ "within": { "x": value } })).get("within").unwrap().object().unwrap();
            for (name, read) in readings {
                match read(&settings.get("x").unwrap()) {
                    Ok(_) => assert!(taken.split(' ').any(|t| t == name), "{value} is read as {name}"),
                    Err(error) => {
                        assert!(!taken.split(' ').any(|t| t == name), "{value}: {error}");
                        assert!(matches!(error, Error::Setting { .. }));
                        assert!(error.to_string().starts_with("c.json: `within.x` is "), "{error}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_nobody_asked_for_is_known() {
        let settings = settings(
            &json!({ "a": 1, "b": 2, "c": { "d": 3, "e": 4 }, "f": { "g": 5 }, "h": [{ "i": 6 }], "j": null }),
        );
        assert_eq!(settings.unread(), ["a", "b", "c", "f", "h"]);
        settings.get("a").unwrap();
        let inner = settings.get("c").unwrap().object().unwrap();
        assert!(inner.find("d").is_some() && inner.find("not there").is_none());
        settings.get("f").unwrap();
        assert_eq!(settings.unread(), ["b", "c.e", "h"]);
    }

    #[test]
    fn what_is_absent_is_told_from_what_is_null() {
        let settings = settings(&json!({ "null": null, "k": 1 }));
        assert!(settings.find("null").is_some() && settings.find_some("null").is_none());
        assert_eq!(settings.get("none").unwrap_err().to_string(), "c.json: key `none` is missing");
        assert_eq!(settings.or("none", 7, |f| f.count(9)).unwrap(), 7);
        assert!(settings.or("null", 7, |f| f.count(9)).is_err());
        assert!(settings.get("k").unwrap().choice(&["a"]).unwrap_err().to_string().contains("expected one of `a`"));
    }

    #[test]
    fn what_is_no_object_is_an_error_that_names_the_file() {
        for bytes in [&b"{"[..], b"", b"[1]", b"{\"a\": NaN}", b"{\"a\": 1e999}", b"\xFF\xFE"] {
            let error = Settings::parse("c.json", bytes).unwrap_err();
            assert!(matches!(error, Error::Settings { .. }) && error.to_string().starts_with("c.json: "), "{error}");
        }
        assert!(Settings::parse("c.json", "\u{FEFF}{}".as_bytes()).is_ok());
    }
}
