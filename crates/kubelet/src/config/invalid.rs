//! One refused value: which field, what it held, why.

use std::fmt;

use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub field: String,
    /// The value as JSON, `None` where the fault is that there is none.
    pub value: Option<String>,
    pub reason: String,
}

impl Invalid {
    pub fn new(field: impl Into<String>, value: impl Into<Shown>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), value: Some(value.into().0), reason: reason.into() }
    }

    /// The field must be given.
    pub fn required(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), value: None, reason: reason.into() }
    }
}

/// A value in the form that an error shows.
#[derive(Debug)]
pub struct Shown(String);

impl From<&Value> for Shown {
    fn from(value: &Value) -> Self {
        Self(value.to_string())
    }
}

impl From<&str> for Shown {
    fn from(text: &str) -> Self {
        Self(format!("{text:?}"))
    }
}

impl From<&String> for Shown {
    fn from(text: &String) -> Self {
        Self(format!("{text:?}"))
    }
}

impl From<i32> for Shown {
    fn from(number: i32) -> Self {
        Self(number.to_string())
    }
}

impl From<i64> for Shown {
    fn from(number: i64) -> Self {
        Self(number.to_string())
    }
}

impl From<f64> for Shown {
    fn from(number: f64) -> Self {
        Self(number.to_string())
    }
}

impl From<bool> for Shown {
    fn from(flag: bool) -> Self {
        Self(flag.to_string())
    }
}

impl From<super::duration::GoDuration> for Shown {
    fn from(duration: super::duration::GoDuration) -> Self {
        Self(format!("\"{duration}\""))
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}: Invalid value: {value}: {}", self.field, self.reason),
            None => write!(f, "{}: Required value: {}", self.field, self.reason),
        }
    }
}

/// All refused values of one configuration, each on its own line when there are several.
pub fn list(faults: &[Invalid]) -> String {
    match faults {
        [one] => one.to_string(),
        many => many.iter().map(|fault| format!("\n  {fault}")).collect(),
    }
}
