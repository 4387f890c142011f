//! The Prometheus text format 0.0.4: families with HELP and TYPE before their samples, each series once.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Gauges in the making. Names and labels are sorted, so that two scrapes compare line by line.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    families: BTreeMap<String, Family>,
}

#[derive(Debug)]
struct Family {
    help: String,
    /// By the written labels.
    series: BTreeMap<String, f64>,
}

impl Exposition {
    /// Sets one series; a second value for the same labels replaces the first. Every metric here is a gauge: what the
    /// keeper shows is the present, and its history is in the record.
    pub(super) fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let family = self
            .families
            .entry(metric_name(name))
            .or_insert_with(|| Family { help: help.to_owned(), series: BTreeMap::new() });
        family.series.insert(written(labels), value);
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, family) in &self.families {
            // Writing to a String cannot fail.
            let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
            for (labels, value) in &family.series {
                let _ = writeln!(text, "{name}{labels} {}", number(*value));
            }
        }
        text
    }
}

fn written(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn metric_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_series_are_unique() {
        let mut exposition = Exposition::default();
        exposition.gauge("a-b", "help\nwith a break", &[("path", "C:\\\"x\"\ny")], 1.0);
        exposition.gauge("a-b", "help", &[("path", "C:\\\"x\"\ny")], f64::INFINITY);
        let text = exposition.to_text();
        assert_eq!(text, "# HELP a_b help\\nwith a break\n# TYPE a_b gauge\na_b{path=\"C:\\\\\\\"x\\\"\\ny\"} +Inf\n");
    }
}
