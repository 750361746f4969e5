//! Amounts of resources as the API writes them (`1500m`, `1.5Gi`, `12e6`): exact value, canonical text, arithmetic.
//!
//! The value is kept in billionths, the smallest step the API knows, so no operation rounds.

use std::{cmp::Ordering, collections::BTreeMap, fmt, str::FromStr};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

/// A resource list of the API: resource name to text.
pub type ApiList = BTreeMap<String, ApiQuantity>;
/// A resource list to compute with.
pub type Amounts = BTreeMap<String, Quantity>;

const NANOS: i128 = 1_000_000_000;
/// Binary amounts are capped here, as the API server caps them.
const MAX_BINARY: i128 = i64::MAX as i128 * NANOS;

/// Which family of suffixes an amount is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    DecimalExponent,
    BinarySi,
    DecimalSi,
}

/// One amount. Two are equal when their values are: `1Gi == 1073741824`.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantityError {
    Format,
    Suffix,
}

impl fmt::Display for QuantityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QuantityError::Format => {
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            }
            QuantityError::Suffix => "unable to parse quantity's suffix",
        })
    }
}

impl std::error::Error for QuantityError {}

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// Whole units: bytes, cores, pods.
    pub fn from_value(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANOS, format }
    }
    /// Thousandths: milli CPU.
    pub fn from_milli(milli: i64, format: Format) -> Self {
        Self { nanos: i128::from(milli) * (NANOS / 1000), format }
    }
    /// The API's text. What cannot be parsed counts as nothing: an API server never lets it through.
    pub fn of(api: &ApiQuantity) -> Self {
        api.0.parse().unwrap_or(Self::ZERO)
    }
    pub fn to_api(self) -> ApiQuantity {
        ApiQuantity(self.to_string())
    }

    pub fn format(&self) -> Format {
        self.format
    }
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }
    /// Thousandths, rounded away from zero.
    pub fn milli_value(&self) -> i64 {
        self.scaled(NANOS / 1000)
    }
    /// Whole units, rounded away from zero.
    pub fn value(&self) -> i64 {
        self.scaled(NANOS)
    }

    fn scaled(&self, unit: i128) -> i64 {
        let rounded = div_away(self.nanos, unit);
        rounded.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// A sum with nothing takes the other's way of writing.
    #[must_use]
    pub fn plus(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }
    #[must_use]
    pub fn minus(self, other: Quantity) -> Quantity {
        self.plus(Quantity { nanos: other.nanos.saturating_neg(), format: other.format })
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}
impl Default for Quantity {
    fn default() -> Self {
        Self::ZERO
    }
}

fn div_away(n: i128, unit: i128) -> i128 {
    let whole = n / unit;
    if n % unit == 0 { whole } else { whole + n.signum() }
}

enum Suffix {
    Ten(i32),
    Two(u32),
}

fn suffix(text: &str) -> Result<(Suffix, Format), QuantityError> {
    let ten = |e| Ok((Suffix::Ten(e), Format::DecimalSi));
    let two = |e| Ok((Suffix::Two(e), Format::BinarySi));
    match text {
        "n" => ten(-9),
        "u" => ten(-6),
        "m" => ten(-3),
        "" => ten(0),
        "k" => ten(3),
        "M" => ten(6),
        "G" => ten(9),
        "T" => ten(12),
        "P" => ten(15),
        "E" => ten(18),
        "Ki" => two(10),
        "Mi" => two(20),
        "Gi" => two(30),
        "Ti" => two(40),
        "Pi" => two(50),
        "Ei" => two(60),
        _ => {
            let digits = text.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
            let exponent: i32 = digits.parse().map_err(|_| QuantityError::Suffix)?;
            Ok((Suffix::Ten(exponent), Format::DecimalExponent))
        }
    }
}

/// Sign, digits before the point, digits after it, suffix.
fn split(text: &str) -> Result<(bool, &str, &str, &str), QuantityError> {
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        Some(_) => (false, text),
        None => return Err(QuantityError::Format),
    };
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = rest.split_at(digits(rest));
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => after.split_at(digits(after)),
        None => ("", rest),
    };
    let letters = rest.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let tail = rest[letters..].strip_prefix(['+', '-']).unwrap_or(&rest[letters..]);
    if !tail.bytes().all(|b| b.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    Ok((negative, whole, fraction, rest))
}

fn pow10(exponent: u32) -> Option<i128> {
    10_i128.checked_pow(exponent)
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, whole, fraction, rest) = split(text)?;
        let (scale, mut format) = suffix(rest)?;
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() {
            return Ok(Self { nanos: 0, format });
        }
        // Too many digits for the type means far above every cap.
        let mantissa: i128 = digits.parse().unwrap_or(i128::MAX);
        let places = fraction.len() as i32;
        let nanos = match scale {
            Suffix::Ten(exponent) => shift(mantissa, exponent.saturating_add(9).saturating_sub(places)),
            Suffix::Two(exponent) => {
                let units = mantissa.checked_mul(1_i128 << exponent).unwrap_or(i128::MAX);
                shift(units, 9 - places).min(MAX_BINARY)
            }
        };
        if format == Format::BinarySi && nanos < NANOS {
            // Less than one whole: only the decimal suffixes can show it.
            format = Format::DecimalSi;
        }
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

/// `n * 10^exponent`, rounded up: whoever asks for some gets some.
fn shift(n: i128, exponent: i32) -> i128 {
    if exponent >= 0 {
        let factor = pow10(exponent.unsigned_abs());
        factor.and_then(|f| n.checked_mul(f)).unwrap_or(i128::MAX)
    } else {
        match pow10(exponent.unsigned_abs()) {
            Some(divisor) => div_away(n, divisor),
            None => 1,
        }
    }
}

impl fmt::Display for Quantity {
    /// Canonical: no fraction, the largest suffix that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        let whole = self.nanos % NANOS == 0;
        let small = self.nanos.abs() < 1024 * NANOS;
        match self.format {
            Format::BinarySi if whole && !small => fmt_binary(self.nanos / NANOS, f),
            Format::DecimalExponent => fmt_decimal(self.nanos, true, f),
            _ => fmt_decimal(self.nanos, false, f),
        }
    }
}

fn fmt_binary(mut value: i128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut step = 0;
    while value % 1024 == 0 && step < 6 {
        value /= 1024;
        step += 1;
    }
    write!(f, "{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step])
}

fn fmt_decimal(mut nanos: i128, as_exponent: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut exponent = -9;
    while nanos % 1000 == 0 && exponent < 18 {
        nanos /= 1000;
        exponent += 3;
    }
    if as_exponent && exponent != 0 {
        return write!(f, "{nanos}e{exponent}");
    }
    let names = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    write!(f, "{nanos}{}", names[((exponent + 9) / 3) as usize])
}

/// Adds every entry of `more`.
pub fn add_all(list: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = list.get(name).copied().map_or(*amount, |have| have.plus(*amount));
        list.insert(name.clone(), sum);
    }
}

/// Keeps the greater of each entry.
pub fn max_all(list: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        if list.get(name).is_none_or(|have| amount > have) {
            list.insert(name.clone(), *amount);
        }
    }
}

/// Parsed, an absent list being an empty one.
pub fn amounts(list: Option<&ApiList>) -> Amounts {
    list.into_iter().flatten().map(|(name, amount)| (name.clone(), Quantity::of(amount))).collect()
}

pub fn to_api_list(list: &Amounts) -> ApiList {
    list.iter().map(|(name, amount)| (name.clone(), amount.to_api())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    /// Answers of the upstream library: text, canonical text, milli value, value.
    const UPSTREAM: &[(&str, &str, i64, i64)] = &[
        ("0", "0", 0, 0),
        ("1", "1", 1000, 1),
        ("100m", "100m", 100, 1),
        ("1.5", "1500m", 1500, 2),
        ("1.5Gi", "1536Mi", 1610612736000, 1610612736),
        ("1024Mi", "1Gi", 1073741824000, 1073741824),
        ("1023Mi", "1023Mi", 1072693248000, 1072693248),
        ("1e3", "1e3", 1000000, 1000),
        ("12e6", "12e6", 12000000000, 12000000),
        ("1E3", "1e3", 1000000, 1000),
        ("1Ki", "1Ki", 1024000, 1024),
        ("0.5Ki", "512", 512000, 512),
        ("1.1Ki", "1126400m", 1126400, 1127),
        ("1000", "1k", 1000000, 1000),
        ("1000000", "1M", 1000000000, 1000000),
        ("100000m", "100", 100000, 100),
        ("0.1m", "100u", 1, 1),
        ("1n", "1n", 1, 1),
        ("0.1n", "1n", 1, 1),
        ("-1.5Gi", "-1536Mi", -1610612736000, -1610612736),
        ("2048", "2048", 2048000, 2048),
        ("5e-3", "5e-3", 5, 1),
        ("500Ki", "500Ki", 512000000, 512000),
        ("+5", "5", 5000, 5),
        ("005", "5", 5000, 5),
        ("1.Gi", "1Gi", 1073741824000, 1073741824),
        (".5", "500m", 500, 1),
        ("m", "0", 0, 0),
        ("1500u", "1500u", 2, 1),
        ("123456789k", "123456789k", 123456789000000, 123456789000),
        ("1025", "1025", 1025000, 1025),
        ("0.3Gi", "322122547200m", 322122547200, 322122548),
        ("100e-1", "10", 10000, 10),
    ];

    #[test]
    fn texts_mean_and_print_what_upstream_makes_of_them() {
        for (text, canonical, milli, value) in UPSTREAM {
            let quantity = q(text);
            assert_eq!(quantity.to_string(), *canonical, "{text}");
            assert_eq!(quantity.milli_value(), *milli, "{text}");
            assert_eq!(quantity.value(), *value, "{text}");
        }
    }

    #[test]
    fn binary_amounts_are_capped_and_huge_ones_never_overflow() {
        assert_eq!(q("9Ei").to_string(), "9223372036854775807");
        assert_eq!(q("1234567890123456789Ki").value(), i64::MAX);
        assert_eq!((q("1E").to_string(), q("1E").value()), ("1E".to_owned(), 1_000_000_000_000_000_000));
        assert_eq!(q("1e40").value(), i64::MAX);
        assert_eq!(q("99999999999999999999999999999999999999999999").plus(q("1e40")).value(), i64::MAX);
    }

    #[test]
    fn malformed_texts_are_refused() {
        for text in ["", "1x", "1KiB", "1.2.3", "abc", "1e", "--1", "1 Gi", "1ki"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }

    #[test]
    fn canonical_text_parses_back_to_the_same_value() {
        for (text, ..) in UPSTREAM {
            assert_eq!(q(&q(text).to_string()), q(text), "{text}");
        }
    }

    #[test]
    fn a_sum_keeps_the_first_ones_suffixes_unless_it_was_nothing() {
        assert_eq!(q("1Gi").plus(q("500M")).to_string(), "1573741824");
        assert_eq!(q("1").plus(q("0.0001")).to_string(), "1000100u");
        assert_eq!(q("0").plus(q("1Gi")).to_string(), "1Gi");
        assert_eq!(q("100m").plus(q("1")).to_string(), "1100m");
        assert_eq!(q("1").minus(q("100m")).to_string(), "900m");
        assert!(q("500M") < q("1Gi"));
        assert_eq!(q("1Gi"), q("1073741824"));
    }

    #[test]
    fn lists_add_and_take_the_greater() {
        let mut list = Amounts::from([("cpu".to_owned(), q("1"))]);
        add_all(&mut list, &Amounts::from([("cpu".to_owned(), q("500m")), ("memory".to_owned(), q("1Gi"))]));
        assert_eq!(list["cpu"].to_string(), "1500m");
        max_all(&mut list, &Amounts::from([("cpu".to_owned(), q("1")), ("memory".to_owned(), q("2Gi"))]));
        assert_eq!((list["cpu"].to_string(), list["memory"].to_string()), ("1500m".into(), "2Gi".into()));
    }

    #[test]
    fn any_text_is_a_quantity_or_none_and_keeps_its_value() {
        fuzz::each("quantity", |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            let Ok(quantity) = text.parse::<Quantity>() else { return };
            let again: Quantity = quantity.to_string().parse().expect("its own text is a quantity");
            assert_eq!(again.to_string(), quantity.to_string());
        });
    }
}
