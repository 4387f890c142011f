//! The form in which every measured target is printed:
//! `bar <area>.<name> value=<number><unit> target=<op><number><unit> pass|short`.

use std::fmt;

/// Which side of the target is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Below,
    AtMost,
    AtLeast,
    Exactly,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    pub wanted: Wanted,
    pub target: f64,
}

impl Bar {
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str, wanted: Wanted, target: f64) -> Self {
        Self { name: name.into(), value, unit, wanted, target }
    }

    pub fn passes(&self) -> bool {
        match self.wanted {
            Wanted::Below => self.value < self.target,
            Wanted::AtMost => self.value <= self.target,
            Wanted::AtLeast => self.value >= self.target,
            Wanted::Exactly => (self.value - self.target).abs() < f64::EPSILON,
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = match self.wanted {
            Wanted::Below => "<",
            Wanted::AtMost => "<=",
            Wanted::AtLeast => ">=",
            Wanted::Exactly => "=",
        };
        let verdict = if self.passes() { "pass" } else { "short" };
        let number = |value: f64| {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        let (value, target) = (number(self.value), number(self.target));
        write!(f, "bar {} value={value}{} target={operator}{target}{} {verdict}", self.name, self.unit, self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_reads_as_the_design_says() {
        let bar = Bar::new("sweep.wall", 0.2345, "s", Wanted::Below, 1.0);
        assert_eq!(bar.to_string(), "bar sweep.wall value=0.234s target=<1s pass");
        let bar = Bar::new("idle.memory", 61.0, "MB", Wanted::Below, 50.0);
        assert_eq!(bar.to_string(), "bar idle.memory value=61MB target=<50MB short");
    }
}
