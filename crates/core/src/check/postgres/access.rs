//! Who gets in without a password, and who talks in clear text.

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Unknown, UnknownKind};
use crate::finding::Draft;
use crate::observation::{AccessRule, PlainClient, Postgres, Settings};
use crate::quantity::Value;
use crate::severity::Severity;
use core::net::{IpAddr, Ipv6Addr};

const HBA: &str = "pg_hba_file_rules";

pub static HBA_TRUST: Check = Check {
    id: "postgres.hba_trust",
    title: "pg_hba.conf lets people in without a password",
    runbook: Runbook {
        means: "Whoever reaches the server from an address of such a line is let in as any role it names, superusers \
                among them, and is asked nothing. From the internet that is an open database; from a private network \
                every compromised service has all the data.",
        confirm: "SELECT line_number, type, database, user_name, address, netmask, auth_method FROM pg_hba_file_rules \
                  WHERE auth_method = 'trust';",
        act: "Give the roles that come in over it passwords first (\\password in psql), and the clients too. A password that is \
              kept as md5, as it was by default before 14, does not pass scram-sha-256: SET password_encryption = \
              'scram-sha-256'; in the session that gives it, and give older ones anew. Then change \
              trust to scram-sha-256 on the line (peer for local ones) and SELECT pg_reload_conf(); who is \
              connected stays connected. Try a new connection before closing the session that you did it with.",
    },
    source: HBA,
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(hba_trust),
};

/// A managed server lets nobody grant these rules: hidden ones are no trouble, for nobody can mend that there.
fn rules<'a>(sight: &Sight<'a, Postgres>) -> Result<&'a [AccessRule], Unknown> {
    match &sight.seen.security.rules {
        Ok(rules) => Ok(rules),
        Err(gap) if gap.permission => Err(Unknown { kind: UnknownKind::NotHere, reason: gap.reason.clone() }),
        Err(gap) => Err(gap.into()),
    }
}

fn hba_trust(sight: &Sight<'_, Postgres>) -> Judged {
    let rules = rules(sight)?;
    let is_reachable = listens_beyond(sight.seen.settings.as_ref()?);
    let mut open: Vec<(Reach, &AccessRule)> = in_force(rules)
        .filter(|rule| rule.method == "trust" && !rule.has_certificate && rule.error.is_none())
        .map(|rule| (reach(rule), rule))
        .collect();
    // The sort keeps the order of the file.
    open.sort_by_key(|(reach, _)| std::cmp::Reverse(*reach));
    let Some((widest, first)) = open.first() else { return Ok(Vec::new()) };
    let (severity, whom) = match widest {
        Reach::Anywhere if is_reachable => (Severity::Critical, "anybody from anywhere"),
        Reach::Network if is_reachable => (Severity::Warning, "anybody from a network"),
        Reach::Machine => (Severity::Info, "anybody on the server's own machine"),
        // The server does not listen there: the line waits for the day when it does.
        _ => (Severity::Info, "anybody from outside, if the server listened there,"),
    };
    let lines: Vec<String> = open.iter().take(20).map(|(_, rule)| told(rule)).collect();
    let method = if first.kind == "local" { "peer (or scram-sha-256)" } else { "scram-sha-256" };
    let draft = Draft::new(severity, format!("pg_hba.conf lets {whom} in without a password: {}", told(first)))
        .saw("lines with trust", Value::text(lines.join("; ")), HBA)
        .fix(format!(
            "After the roles have passwords that are kept as SCRAM (SELECT rolname FROM pg_authid WHERE rolcanlogin AND \
             (rolpassword LIKE 'SCRAM%') IS NOT TRUE; names none of them): change trust to {method} on {}, then SELECT pg_reload_conf();",
            place(first)
        ));
    Ok(vec![draft])
}

/// Lines that a connection can come to: the first one that fits decides, so nothing passes one that fits everybody.
fn in_force(rules: &[AccessRule]) -> impl Iterator<Item = &AccessRule> {
    rules
        .iter()
        .enumerate()
        .filter(|(index, rule)| !rules[..*index].iter().any(|earlier| hides(earlier, rule)))
        .map(|(_, rule)| rule)
}

fn hides(earlier: &AccessRule, later: &AccessRule) -> bool {
    let has = |list: &[String], word: &str| list.iter().any(|entry| entry == word);
    let same_kind = earlier.kind == later.kind || (earlier.kind == "host" && later.kind != "local");
    // `all` does not include connections of replication.
    let databases = has(&earlier.databases, "all") && !has(&later.databases, "replication");
    let addresses = earlier.address == later.address && earlier.netmask == later.netmask
        || earlier.address.as_deref() == Some("all");
    earlier.error.is_none() && same_kind && databases && has(&earlier.users, "all") && addresses
}

fn told(rule: &AccessRule) -> String {
    let address = match (&rule.address, &rule.netmask) {
        (Some(address), Some(netmask)) => match netmask.parse() {
            Ok(mask) => format!(" {address}/{}", prefix(mask)),
            Err(_) => format!(" {address} {netmask}"),
        },
        (Some(address), None) => format!(" {address}"),
        (None, _) => String::new(),
    };
    let (databases, users) = (rule.databases.join(","), rule.users.join(","));
    format!("line {}: {} {databases} {users}{address} {}", rule.line, rule.kind, rule.method)
}

fn place(rule: &AccessRule) -> String {
    let file = rule.file.as_deref().unwrap_or("pg_hba.conf (SHOW hba_file)");
    format!("line {} of {file}", rule.line)
}

/// From how far away a line lets somebody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Machine,
    /// A private network, or a name that somebody's DNS decides about.
    Network,
    Anywhere,
}

fn reach(rule: &AccessRule) -> Reach {
    let Some(address) = rule.address.as_deref().filter(|_| rule.kind != "local") else { return Reach::Machine };
    let mask = rule.netmask.as_deref().and_then(|mask| mask.parse().ok()).map(prefix);
    match (address, address.parse::<IpAddr>()) {
        ("all", _) => Reach::Anywhere,
        ("samehost", _) => Reach::Machine,
        (_, Err(_)) => Reach::Network,
        (_, Ok(ip)) => {
            // A wider mask than that of the smallest prefix of private addresses (10.0.0.0/8, fc00::/7) has others in it.
            let is_narrow = mask.is_none_or(|mask| mask >= if ip.is_ipv4() { 8 } else { 7 });
            match (is_narrow, is_loopback(ip), is_private(ip)) {
                (true, true, _) => Reach::Machine,
                (true, false, true) => Reach::Network,
                _ => Reach::Anywhere,
            }
        }
    }
}

fn prefix(mask: IpAddr) -> u32 {
    match mask {
        IpAddr::V4(mask) => mask.to_bits().count_ones(),
        IpAddr::V6(mask) => mask.to_bits().count_ones(),
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Not routed on the internet: RFC 1918, RFC 6598 (carriers, and overlay networks that use their range), link-local and
/// unique local addresses.
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || (ip.octets()[0] == 100 && ip.octets()[1] & 0xC0 == 64)
        }
        IpAddr::V6(ip) => ip == Ipv6Addr::LOCALHOST || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Whether the server can be reached from other machines. Where it does not tell, it can.
fn listens_beyond(settings: &Settings) -> bool {
    settings.value("listen_addresses").is_none_or(|addresses| {
        addresses
            .split(',')
            .map(str::trim)
            .filter(|address| !address.is_empty())
            .any(|address| address != "localhost" && !address.parse().is_ok_and(is_loopback))
    })
}

pub static HBA_INVALID: Check = Check {
    id: "postgres.hba_invalid",
    title: "pg_hba.conf has a line that the server does not understand",
    runbook: Runbook {
        means: "The server goes on with the rules that it read before, and takes up no change of the file. With the next \
                restart it does not start at all.",
        confirm: "SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL;",
        act: "Mend the line that is named, then SELECT pg_reload_conf(); and look again: the query above shows nothing, \
              and the server's log does not say that the file was not loaded.",
    },
    source: HBA,
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(hba_invalid),
};

fn hba_invalid(sight: &Sight<'_, Postgres>) -> Judged {
    let rules = rules(sight)?;
    // A line that was understood and can match nothing (hostssl without ssl) has a remark there, and does no harm.
    let wrong: Vec<(&AccessRule, &str)> = rules
        .iter()
        .filter(|rule| rule.kind.is_empty())
        .filter_map(|rule| Some((rule, rule.error.as_deref()?)))
        .collect();
    let Some((first, error)) = wrong.first() else { return Ok(Vec::new()) };
    let all: Vec<String> = wrong.iter().take(20).map(|(rule, error)| format!("line {}: {error}", rule.line)).collect();
    let draft = Draft::new(
        Severity::Warning,
        format!("the server would not start again: line {} of pg_hba.conf is wrong ({error})", first.line),
    )
    .saw("lines", Value::text(all.join("; ")), HBA)
    .fix(format!("Mend {}, then SELECT pg_reload_conf();", place(first)));
    Ok(vec![draft])
}

pub static TLS_OFF: Check = Check {
    id: "postgres.tls_off",
    title: "Connections over the network are not encrypted",
    runbook: Runbook {
        means: "Whoever is on the way between a client and the server reads every row and every statement, and can change \
                them. Over the internet that is anybody; inside a private network, whoever broke into one of its machines.",
        confirm: "SHOW ssl; SELECT a.usename, a.client_addr, s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
                  WHERE a.client_addr IS NOT NULL;",
        act: "Give the server a certificate and its key (ssl_cert_file, ssl_key_file), ALTER SYSTEM SET ssl = on; SELECT \
              pg_reload_conf(); no restart. Clients that do not ask for TLS go on as they are. Then set sslmode=verify-full in \
              the clients' addresses, and when all of them use it, change host to hostssl in pg_hba.conf.",
    },
    source: "ssl and listen_addresses in pg_settings; pg_stat_ssl",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(tls_off),
};

fn tls_off(sight: &Sight<'_, Postgres>) -> Judged {
    let settings = sight.seen.settings.as_ref()?;
    let clients = sight.seen.security.plain_clients.as_ref();
    let remote = |clients: &[PlainClient]| -> Vec<PlainClient> {
        clients.iter().filter(|client| !is_loopback(client.address)).cloned().collect()
    };
    let is_off = settings.is_on("ssl") == Some(false);
    let known = clients.map(|clients| remote(clients));
    let is_public = |client: &&PlainClient| !is_private(client.address);
    let (severity, summary) = match &known {
        Ok(plain) if plain.iter().any(|client| is_public(&client)) => {
            let public: Vec<&PlainClient> = plain.iter().filter(is_public).collect();
            (Severity::Warning, format!("{} over the internet without encryption", connections(&public)))
        }
        Ok(plain) if is_off && !plain.is_empty() => {
            let all: Vec<&PlainClient> = plain.iter().collect();
            (Severity::Info, format!("ssl is off: {} from other machines without encryption", connections(&all)))
        }
        _ if is_off && listens_beyond(settings) => {
            (Severity::Info, "ssl is off, and the server listens to other machines".to_owned())
        }
        Ok(_) => return Ok(Vec::new()),
        Err(gap) => return Err((*gap).into()),
    };
    let mut draft = Draft::new(severity, summary)
        .saw("ssl", Value::text(if is_off { "off" } else { "on" }), "pg_settings")
        .saw("listens to", Value::text(settings.value("listen_addresses").unwrap_or("?")), "listen_addresses");
    if let Ok(plain) = known.as_ref().map(Vec::as_slice)
        && !plain.is_empty()
    {
        let told: Vec<String> =
            plain.iter().take(10).map(|client| format!("{} as {}", client.address, client.user)).collect();
        draft = draft.saw("not encrypted", Value::text(told.join("; ")), "pg_stat_ssl");
    }
    let fix = if is_off {
        "With the paths of a certificate and its key in ssl_cert_file and ssl_key_file: ALTER SYSTEM SET ssl = on; SELECT \
         pg_reload_conf();"
    } else {
        "Set sslmode=verify-full in the addresses of these clients; when all of them use it, change host to hostssl in \
         pg_hba.conf and SELECT pg_reload_conf();"
    };
    Ok(vec![draft.fix(fix)])
}

fn connections(clients: &[&PlainClient]) -> String {
    let count: u32 = clients.iter().map(|client| client.connections).sum();
    if count == 1 { "1 connection comes".to_owned() } else { format!("{count} connections come") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{change, finding, found_in, setting, status};
    use crate::finding::Finding;
    use crate::observation::Gap;

    fn rule(kind: &str, address: &str, netmask: &str, method: &str) -> AccessRule {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        AccessRule {
            line: 7,
            file: None,
            kind: kind.into(),
            databases: vec!["all".into()],
            users: vec!["all".into()],
            address: some(address),
            netmask: some(netmask),
            method: method.into(),
            has_certificate: false,
            error: None,
        }
    }

    fn with(rules: Vec<AccessRule>) -> Postgres {
        change(|seen| seen.security.rules = Ok(rules))
    }

    fn trusted(address: &str, netmask: &str) -> Severity {
        finding("postgres.hba_trust", found_in(with(vec![rule("host", address, netmask, "trust")]))).severity
    }

    #[test]
    fn trust_is_graded_by_how_far_away_it_reaches() {
        for (address, netmask) in [
            ("all", ""),
            ("0.0.0.0", "0.0.0.0"),
            ("::", "::"),
            ("203.0.113.7", "255.255.255.255"),
            ("10.0.0.0", "252.0.0.0"),
        ] {
            assert_eq!(trusted(address, netmask), Severity::Critical, "{address}/{netmask}");
        }
        for (address, netmask) in [
            ("10.0.0.0", "255.0.0.0"),
            ("192.168.1.0", "255.255.255.0"),
            ("samenet", ""),
            (".example.org", ""),
            ("fd00::", "ffff::"),
        ] {
            assert_eq!(trusted(address, netmask), Severity::Warning, "{address}/{netmask}");
        }
        for (address, netmask) in [("127.0.0.1", "255.255.255.255"), ("samehost", "")] {
            assert_eq!(trusted(address, netmask), Severity::Info, "{address}/{netmask}");
        }
        let found = finding("postgres.hba_trust", found_in(with(vec![rule("local", "", "", "trust")])));
        assert_eq!(found.severity, Severity::Info);
        assert!(found.fix.contains("peer") && found.fix.contains("line 7"), "{}", found.fix);
    }

    #[test]
    fn the_widest_line_is_named_first() {
        let seen = with(vec![
            rule("local", "", "", "trust"),
            rule("host", "127.0.0.1", "255.255.255.255", "trust"),
            rule("host", "10.1.0.0", "255.255.0.0", "trust"),
        ]);
        let found = finding("postgres.hba_trust", found_in(seen));
        assert!(found.summary.ends_with("line 7: host all all 10.1.0.0/16 trust"), "{}", found.summary);
    }

    #[test]
    fn a_line_that_nobody_comes_to_or_that_asks_for_a_certificate_lets_nobody_in() {
        assert_eq!(
            found_in(with(vec![rule("host", "all", "", "reject"), rule("hostssl", "10.0.0.1", "", "trust")])),
            []
        );
        let with_certificate = AccessRule { has_certificate: true, ..rule("hostssl", "all", "", "trust") };
        assert_eq!(found_in(with(vec![with_certificate, rule("host", "all", "", "scram-sha-256")])), []);
        let replication = AccessRule { databases: vec!["replication".into()], ..rule("host", "all", "", "trust") };
        let seen = with(vec![rule("host", "all", "", "scram-sha-256"), replication]);
        assert_eq!(finding("postgres.hba_trust", found_in(seen)).severity, Severity::Critical);
    }

    #[test]
    fn a_server_that_nobody_reaches_is_no_emergency() {
        let seen = change(|seen| {
            seen.security.rules = Ok(vec![rule("host", "all", "", "trust")]);
            listen(seen, "localhost, 127.0.0.1,::1");
        });
        assert_eq!(finding("postgres.hba_trust", found_in(seen)).severity, Severity::Info);
    }

    fn listen(seen: &mut Postgres, addresses: &str) {
        let settings = seen.settings.as_mut().unwrap();
        settings.list.retain(|setting| setting.name != "listen_addresses");
        settings.list.push(setting("listen_addresses", addresses, None));
    }

    #[test]
    fn a_line_that_is_wrong_keeps_the_server_from_starting_again() {
        let wrong =
            AccessRule { error: Some("invalid authentication method \"scrum\"".into()), ..rule("", "", "", "") };
        let remark = Some("hostssl record cannot match because SSL is disabled".to_owned());
        let idle = AccessRule { error: remark, ..rule("hostssl", "all", "", "trust") };
        assert_eq!(found_in(with(vec![idle.clone()])), []);
        let found = finding("postgres.hba_invalid", found_in(with(vec![idle, wrong, rule("local", "", "", "peer")])));
        assert_eq!(found.severity, Severity::Warning);
        assert!(found.summary.contains("scrum") && found.fix.contains("line 7 of pg_hba.conf"), "{found:#?}");
    }

    fn plain(address: &str) -> PlainClient {
        PlainClient { address: address.parse().unwrap(), user: "app".into(), connections: 3 }
    }

    fn tls(is_on: bool, addresses: &str, clients: Vec<PlainClient>) -> Vec<Finding> {
        found_in(change(|seen| {
            seen.security.plain_clients = Ok(clients);
            listen(seen, addresses);
            let settings = seen.settings.as_mut().unwrap();
            settings.list.retain(|setting| setting.name != "ssl");
            settings.list.push(setting("ssl", if is_on { "on" } else { "off" }, None));
        }))
    }

    #[test]
    fn clear_text_over_the_internet_is_a_warning_whatever_the_server_offers() {
        for is_on in [true, false] {
            let found = finding("postgres.tls_off", tls(is_on, "*", vec![plain("10.0.0.4"), plain("203.0.113.7")]));
            assert_eq!(found.severity, Severity::Warning);
            assert!(found.summary.starts_with("3 connections come over the internet"), "{}", found.summary);
        }
    }

    #[test]
    fn within_a_private_network_only_a_server_without_tls_is_told() {
        assert_eq!(tls(true, "*", vec![plain("10.0.0.4")]), []);
        for clients in [vec![plain("10.0.0.4")], vec![]] {
            assert_eq!(finding("postgres.tls_off", tls(false, "*", clients)).severity, Severity::Info);
        }
        assert_eq!(tls(false, "localhost", vec![plain("127.0.0.1")]), []);
        assert_eq!(tls(false, "", vec![]), []);
    }

    #[test]
    fn carriers_and_overlays_have_private_addresses_too() {
        for (address, expected) in [
            ("100.64.0.1", true),
            ("100.128.0.1", false),
            ("::ffff:10.0.0.1", true),
            ("fe80::1", true),
            ("2001:db8::1", false),
            ("172.31.0.1", true),
            ("172.32.0.1", false),
        ] {
            assert_eq!(is_private(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn what_is_hidden_is_unknown() {
        let seen = change(|seen| {
            seen.security.rules = Err(Gap::permission("no"));
            seen.security.plain_clients = Err(Gap::permission("no"));
        });
        for (check, is_trouble) in [(&HBA_TRUST, false), (&HBA_INVALID, false), (&TLS_OFF, true)] {
            let Status::Unknown(unknown) = status(check.id, seen.clone(), None) else { panic!("{}", check.id) };
            assert_eq!((unknown.kind.is_trouble(), unknown.reason.as_str()), (is_trouble, "no"), "{}", check.id);
        }
        let broken = change(|seen| seen.security.rules = Err(Gap::new("an error")));
        for check in [&HBA_TRUST, &HBA_INVALID] {
            let Status::Unknown(unknown) = status(check.id, broken.clone(), None) else { panic!("{}", check.id) };
            assert!(unknown.kind.is_trouble(), "{}: what is no permission can be mended", check.id);
        }
        let seen = change(|seen| seen.settings = Err(Gap::permission("no")));
        for check in [&HBA_TRUST, &TLS_OFF] {
            assert!(matches!(status(check.id, seen.clone(), None), Status::Unknown(_)), "{}", check.id);
        }
    }
}
