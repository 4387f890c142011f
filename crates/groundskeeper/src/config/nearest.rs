//! Which known name did a person mean?

/// The known name closest to the one written, when one is close enough to be meant.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    // A third of the letters may be wrong, and a missing prefix (`long_query` for `postgres.long_query`) is forgiven.
    let tolerated = (written.chars().count() / 3).max(2);
    known
        .into_iter()
        .filter_map(|name| {
            let lower = name.to_lowercase();
            let missing_part = written.len() >= 4 && lower.contains(&written);
            let distance = if missing_part { 1 } else { strsim::damerau_levenshtein(&written, &lower) };
            (distance <= tolerated && distance < lower.chars().count()).then_some((distance, name))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// `; did you mean `name`?`, or nothing.
pub fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(written, known).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        let known = ["deadline", "password", "password_file", "url"];
        assert_eq!(nearest("max_conections", known), None);
        assert_eq!(nearest("deadlin", known), Some("deadline"));
        assert_eq!(nearest("pasword", known), Some("password"));
        assert_eq!(nearest("URL", known), Some("url"));
        assert_eq!(nearest("long_query", ["postgres.long_query", "redis.long"]), Some("postgres.long_query"));
    }
}
