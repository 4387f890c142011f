//! When autovacuum itself would start on a table.

/// The server's own settings for when vacuum and analyze start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Triggers {
    pub(super) vacuum_base: f64,
    pub(super) vacuum_scale: f64,
    /// From 18 on the vacuum trigger stops growing here; negative for no end.
    pub(super) vacuum_most: f64,
    pub(super) analyze_base: f64,
    pub(super) analyze_scale: f64,
}

impl Triggers {
    /// A table's `reloptions` win over the server's settings.
    pub(super) fn of_table(mut self, options: &[String]) -> Self {
        for (name, value) in options.iter().filter_map(|option| option.split_once('=')) {
            let Ok(value) = value.parse::<f64>() else { continue };
            match name {
                "autovacuum_vacuum_threshold" => self.vacuum_base = value,
                "autovacuum_vacuum_scale_factor" => self.vacuum_scale = value,
                "autovacuum_vacuum_max_threshold" => self.vacuum_most = value,
                "autovacuum_analyze_threshold" => self.analyze_base = value,
                "autovacuum_analyze_scale_factor" => self.analyze_scale = value,
                _ => {}
            }
        }
        self
    }

    /// The formula of autovacuum itself, see "The Autovacuum Daemon" in the manual.
    pub(super) fn vacuum_at(self, rows: f64) -> f64 {
        let at = self.vacuum_base + self.vacuum_scale * rows;
        if self.vacuum_most >= 0.0 { at.min(self.vacuum_most) } else { at }
    }

    pub(super) fn analyze_at(self, rows: f64) -> f64 {
        self.analyze_base + self.analyze_scale * rows
    }
}

/// Postgres takes any unique beginning of `true`, `yes`, `on` and their opposites.
pub(super) fn is_switched_off(options: &[String]) -> bool {
    options.iter().filter_map(|option| option.strip_prefix("autovacuum_enabled=")).any(|value| {
        let value = value.to_ascii_lowercase();
        value == "0"
            || value == "of"
            || value == "off"
            || (!value.is_empty() && ("false".starts_with(&value) || "no".starts_with(&value)))
    })
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "the numbers are exact in binary, or the same expression")]
mod tests {
    use super::*;

    const SERVER: Triggers =
        Triggers { vacuum_base: 50.0, vacuum_scale: 0.2, vacuum_most: -1.0, analyze_base: 50.0, analyze_scale: 0.1 };

    fn options(options: &[&str]) -> Vec<String> {
        options.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_table_has_the_servers_triggers_or_its_own() {
        assert_eq!(SERVER.vacuum_at(1_000.0), 250.0);
        assert_eq!(SERVER.analyze_at(1_000.0), 150.0);
        let own = options(&["fillfactor=70", "autovacuum_vacuum_scale_factor=0.01", "autovacuum_analyze_threshold=5"]);
        assert_eq!(SERVER.of_table(&own).vacuum_at(1_000.0), 60.0);
        assert_eq!(SERVER.of_table(&own).analyze_at(1_000.0), 105.0);
    }

    #[test]
    fn from_18_on_the_vacuum_trigger_has_an_end() {
        let server = Triggers { vacuum_most: 100_000_000.0, ..SERVER };
        assert_eq!(server.vacuum_at(1e12), 1e8);
        assert_eq!(server.of_table(&options(&["autovacuum_vacuum_max_threshold=-1"])).vacuum_at(1e12), 50.0 + 2e11);
    }

    #[test]
    fn a_table_may_have_autovacuum_switched_off() {
        for off in
            ["autovacuum_enabled=false", "autovacuum_enabled=off", "autovacuum_enabled=F", "autovacuum_enabled=0"]
        {
            assert!(is_switched_off(&options(&[off])), "{off}");
        }
        for on in ["autovacuum_enabled=true", "autovacuum_enabled=on", "autovacuum_enabled=1", "fillfactor=10"] {
            assert!(!is_switched_off(&options(&[on])), "{on}");
        }
    }
}
