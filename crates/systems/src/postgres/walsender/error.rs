//! Why a replication connection or a backup did not come about, and what to do about it.

use crate::postgres::client::kind_of_state;
use groundskeeper_core::observation::{Failure, FailureKind};
use groundskeeper_core::remedy::quoted;
use std::net::IpAddr;
use std::time::Duration;
use tokio_postgres::error::SqlState;

#[derive(Debug, thiserror::Error)]
pub enum WalSenderError {
    #[error("postgres at {} could not be reached: {}; {}", .0.address, .0.message, remedy(.0.kind))]
    Unreachable(Failure),
    /// It is connected and says nothing.
    #[error(
        "postgres at {address} sent nothing for {:.1} s {doing}; look whether it or its disk hangs, then try again",
        .within.as_secs_f64()
    )]
    Timeout { address: String, doing: &'static str, within: Duration },
    /// The password, `pg_hba.conf` or the role's attributes.
    #[error("postgres at {address} does not let us in for backups: {message}; {next}")]
    Denied { address: String, message: String, next: String },
    #[error("postgres at {address} has no replication connection left for us: {message}; {next}")]
    NoSenderLeft {
        address: String,
        message: String,
        /// Its `max_wal_senders`, when it could be asked.
        senders: Option<u32>,
        next: String,
    },
    #[error(
        "postgres at {address} writes too little WAL for backups (wal_level = minimal); set wal_level = replica and \
         max_wal_senders = 10 in its configuration, and restart it"
    )]
    WalLevelTooLow { address: String },
    #[error(
        "postgres at {address} is version {major}; backups need Postgres 15 or newer in this version of Groundskeeper; \
         upgrade it, or take it out of the backups"
    )]
    TooOld { address: String, major: u32 },
    #[error(
        "postgres at {address} no longer has WAL that the backup needs: {message}; leave a replication slot free \
         (max_replication_slots), or raise wal_keep_size"
    )]
    WalRemoved { address: String, message: String },
    /// The WAL that follows on what we have is not there any more: a gap.
    #[error("postgres at {address} no longer has the WAL that comes next: {message}; a new backup set closes the gap")]
    WalGone { address: String, message: String },
    #[error(
        "postgres at {address} streams through our slot to somebody else: {message}; end the other keeper that streams \
         from this server"
    )]
    SlotBusy { address: String, message: String },
    /// The server reported an error.
    #[error("postgres at {address}: {message} (SQLSTATE {sqlstate}); {next}")]
    Server { address: String, sqlstate: String, message: String, next: String },
    /// The connection ended in the middle.
    #[error("the connection to postgres at {address} ended {doing}: {why}; look into the server's log, then try again")]
    Cut { address: String, doing: &'static str, why: String },
    /// An answer that makes no sense here.
    #[error(
        "postgres at {address} gave an answer that makes no sense {doing}: {what}; is it a Postgres, without a pooler?"
    )]
    Protocol { address: String, doing: &'static str, what: String },
}

impl WalSenderError {
    /// Whether the same may work later, without anybody changing anything.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unreachable(failure) => !matches!(
                failure.kind,
                FailureKind::Denied | FailureKind::Tls | FailureKind::UnknownHost | FailureKind::Missing
            ),
            Self::Timeout { .. } | Self::Cut { .. } | Self::WalRemoved { .. } | Self::SlotBusy { .. } => true,
            Self::NoSenderLeft { senders, .. } => *senders != Some(0),
            Self::Denied { .. }
            | Self::WalLevelTooLow { .. }
            | Self::TooOld { .. }
            | Self::WalGone { .. }
            | Self::Protocol { .. } => false,
            Self::Server { sqlstate, .. } => is_passing(sqlstate),
        }
    }

    /// What a refusal at the door means.
    pub(super) fn at_login(self, role: &str, is_local: bool) -> Self {
        let Self::Server { address, sqlstate, message, next } = self else { return self };
        let role = quoted(role);
        let denied = |address, message, next| Self::Denied { address, message, next };
        let code = SqlState::from_code(&sqlstate);
        match code {
            SqlState::INSUFFICIENT_PRIVILEGE => {
                denied(address, message, format!("run as a superuser: ALTER ROLE {role} REPLICATION;"))
            }
            SqlState::TOO_MANY_CONNECTIONS => {
                let next = sender_wanted(&message, &role);
                Self::NoSenderLeft { address, message, senders: None, next }
            }
            // The file's name is in the message in every language of the server.
            _ if message.contains("pg_hba.conf") => {
                let line = hba_line(&message, &role, is_local);
                let next = format!(
                    "a line for `replication` of its own is needed there, above the one that refuses us: `{line}`; then \
                     SELECT pg_reload_conf();"
                );
                denied(address, message, next)
            }
            SqlState::PROTOCOL_VIOLATION => denied(
                address,
                message,
                "a pooler cannot pass a backup on; give the address of the server itself".to_owned(),
            ),
            _ => match kind_of_state(&code) {
                FailureKind::Denied => {
                    denied(address, message, "correct the role or its password in the configuration".to_owned())
                }
                kind @ FailureKind::NotReady => {
                    Self::Unreachable(Failure { kind, message: format!("{message} (SQLSTATE {sqlstate})"), address })
                }
                _ => Self::Server { address, sqlstate, message, next },
            },
        }
    }

    /// What an error in the middle of a stream of WAL means.
    pub(super) fn in_stream(self) -> Self {
        let Self::Server { address, sqlstate, message, next } = self else { return self };
        match SqlState::from_code(&sqlstate) {
            SqlState::OBJECT_IN_USE => Self::SlotBusy { address, message },
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE if message.contains("wal_level") => {
                Self::WalLevelTooLow { address }
            }
            SqlState::UNDEFINED_FILE | SqlState::INTERNAL_ERROR if names_wal_file(&message) => {
                Self::WalGone { address, message }
            }
            _ => Self::Server { address, sqlstate, message, next },
        }
    }

    /// What an error in the middle of a backup means. `warnings` is what the server had said before.
    pub(super) fn in_backup(self, kept_by_slot: bool, warnings: &[String]) -> Self {
        let Self::Server { address, sqlstate, mut message, mut next } = self else { return self };
        match SqlState::from_code(&sqlstate) {
            // The name of the setting is in the hint, in every language.
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE if message.contains("wal_level") => {
                return Self::WalLevelTooLow { address };
            }
            SqlState::DATA_CORRUPTED => {
                for warning in warnings {
                    message.push_str("; ");
                    message.push_str(warning);
                }
                "its data files are damaged: keep the older sets, and look at what is damaged with pg_amcheck"
                    .clone_into(&mut next);
            }
            // Whichever of the two it is depends on where the server noticed. Only the file's name is not translated.
            SqlState::UNDEFINED_FILE | SqlState::INTERNAL_ERROR if names_wal_file(&message) => {
                return Self::WalRemoved { address, message };
            }
            SqlState::ADMIN_SHUTDOWN if kept_by_slot => {
                "somebody ended the session, the server stops, or max_slot_wal_keep_size is less than the WAL of one \
                 backup; try again"
                    .clone_into(&mut next);
            }
            _ => {}
        }
        Self::Server { address, sqlstate, message, next }
    }
}

fn remedy(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Refused => "start it, or correct the port in the configuration",
        FailureKind::UnknownHost => "correct the host in the configuration",
        FailureKind::Missing => "correct the socket's folder in the configuration",
        FailureKind::Timeout => "look for a firewall between it and us",
        FailureKind::Tls => "correct sslmode, sslrootcert or the server's certificate",
        FailureKind::NotReady => "wait until it is up",
        _ => "look into the server's log",
    }
}

/// Errors that pass by themselves: lost connections, exhausted resources, rollbacks, shutdowns, a standby that was
/// promoted.
fn is_passing(sqlstate: &str) -> bool {
    let class = sqlstate.get(..2).unwrap_or_default();
    matches!(class, "08" | "53" | "40") || matches!(sqlstate, "57P01" | "57P02" | "57P03" | "57014" | "55000")
}

fn sender_wanted(message: &str, role: &str) -> String {
    if message.contains("max_wal_senders") {
        "raise max_wal_senders and restart it, or end a replication connection that nobody needs \
         (pg_stat_replication lists them)"
            .to_owned()
    } else {
        format!("raise max_connections, or the CONNECTION LIMIT of role {role}")
    }
}

/// `000000010000000000000026`
fn names_wal_file(message: &str) -> bool {
    let mut words = message.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| word.len() == 24 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The message names the address that the server sees us come from.
fn hba_line(message: &str, role: &str, is_local: bool) -> String {
    if is_local {
        return format!("local replication {role} scram-sha-256");
    }
    let seen = message.split('"').find_map(|part| part.parse::<IpAddr>().ok());
    let from =
        seen.map_or("ADDRESS".to_owned(), |address| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }));
    format!("host replication {role} {from} scram-sha-256")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(sqlstate: &str, message: &str) -> WalSenderError {
        WalSenderError::Server {
            address: "db:5432/x".to_owned(),
            sqlstate: sqlstate.to_owned(),
            message: message.to_owned(),
            next: "look".to_owned(),
        }
    }

    #[test]
    fn a_refusal_names_the_line_or_the_statement_that_is_missing() {
        for (sqlstate, message, expected) in [
            (
                "28000",
                "kein pg_hba.conf-Eintrag für Replikationsverbindung von Host »10.0.0.7«, Benutzer »keeper«",
                "`host replication \"keeper\" ADDRESS scram-sha-256`",
            ),
            (
                "28000",
                "no pg_hba.conf entry for replication connection from host \"10.0.0.7\", user \"keeper\"",
                "`host replication \"keeper\" 10.0.0.7/32 scram-sha-256`",
            ),
            ("28000", "pg_hba.conf rejects … for host \"fd00::7\"", "fd00::7/128"),
            ("42501", "must be superuser or replication role", "ALTER ROLE \"keeper\" REPLICATION;"),
            ("28P01", "password authentication failed", "password in the configuration"),
            ("08P01", "unsupported startup parameter: replication", "the server itself"),
        ] {
            let error = said(sqlstate, message).at_login("keeper", false);
            assert!(matches!(error, WalSenderError::Denied { .. }) && !error.retryable(), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(expected) && text.contains("db:5432/x"), "{text}");
        }
        let local = said("28000", "no pg_hba.conf entry").at_login("keeper", true).to_string();
        assert!(local.contains("`local replication"), "{local}");
    }

    #[test]
    fn what_is_used_up_or_not_ready_may_work_later() {
        let full = said("53300", "number of requested standby connections exceeds max_wal_senders (currently 10)");
        let full = full.at_login("keeper", false);
        assert!(matches!(full, WalSenderError::NoSenderLeft { .. }) && full.retryable(), "{full:?}");
        let limit = said("53300", "too many connections for role \"keeper\"").at_login("keeper", false);
        assert!(limit.to_string().contains("CONNECTION LIMIT of role \"keeper\""), "{limit}");
        let starting = said("57P03", "the database system is starting up").at_login("keeper", false);
        assert!(matches!(starting, WalSenderError::Unreachable(_)) && starting.retryable(), "{starting:?}");
    }

    #[test]
    fn an_error_of_a_backup_says_what_is_behind_it() {
        let low = said("55000", "WAL level not sufficient; wal_level must be set to \"replica\"").in_backup(false, &[]);
        assert!(matches!(low, WalSenderError::WalLevelTooLow { .. }), "{low:?}");
        let warnings = ["checksum verification failed in file \"base/5/1\"".to_owned()];
        let damaged = said("XX001", "checksum verification failure during base backup").in_backup(true, &warnings);
        assert!(damaged.to_string().contains("base/5/1") && !damaged.retryable(), "{damaged}");
        for sqlstate in ["58P01", "XX000"] {
            let removed = said(sqlstate, "das WAL-Segment 0000000100000000000000A6 wurde schon entfernt");
            let removed = removed.in_backup(false, &[]);
            assert!(removed.to_string().contains("wal_keep_size") && removed.retryable(), "{removed}");
        }
        let other = said("58P01", "could not open file \"base/5/1\"").in_backup(false, &[]);
        assert!(matches!(other, WalSenderError::Server { .. }) && !other.retryable(), "{other:?}");
        let ended = said("57P01", "terminating connection due to administrator command").in_backup(true, &[]);
        assert!(ended.to_string().contains("max_slot_wal_keep_size") && ended.retryable(), "{ended}");
    }
}
