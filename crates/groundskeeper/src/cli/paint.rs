//! Colours, where a person looks at them.

use super::args::Color;
use crate::app::api::SystemState;
use groundskeeper_core::Severity;

/// Wraps text in ANSI colours, or leaves it alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint {
    on: bool,
}

impl Paint {
    /// `NO_COLOR` (no-color.org) and a dumb terminal count for `auto` only: who says `always` means it.
    pub(super) fn choose(wish: Color, terminal: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let on = match wish {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && !set("NO_COLOR") && !dumb,
        };
        Self { on }
    }

    pub(super) fn none() -> Self {
        Self { on: false }
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(super) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(super) fn critical(self, text: &str) -> String {
        self.with("1;31", text)
    }

    pub(super) fn severity(self, severity: Severity, text: &str) -> String {
        match severity {
            Severity::Info => self.with("36", text),
            Severity::Warning => self.with("33", text),
            Severity::Critical => self.critical(text),
        }
    }

    pub(super) fn state(self, state: SystemState, text: &str) -> String {
        match state {
            SystemState::Ok => self.good(text),
            SystemState::Unknown => self.with("35", text),
            SystemState::Waiting => self.dim(text),
            SystemState::Info => self.severity(Severity::Info, text),
            SystemState::Warning => self.severity(Severity::Warning, text),
            SystemState::Critical => self.critical(text),
        }
    }
}

/// How a state is written.
pub(super) fn state_name(state: SystemState) -> &'static str {
    match state {
        SystemState::Ok => "ok",
        SystemState::Unknown => "unknown",
        SystemState::Info => "info",
        SystemState::Warning => "warning",
        SystemState::Critical => "critical",
        SystemState::Waiting => "waiting",
    }
}
