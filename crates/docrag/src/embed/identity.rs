//! Which model it is: recognised by what it makes of pinned texts, because names lie (a file is swapped, an endpoint
//! serves something else under the same name).
//!
//! Measured, as the lowest cosine over all probes (x86-64 with AVX2): `rten` against ONNX Runtime 1.31 on the same file,
//! 0.999 999 99, and the fingerprints are equal; the same model cutting texts at 128 tokens, 0.93; another one of the
//! same family and dimension (paraphrase-MiniLM-L3-v2), 0.14. Other processors were not at hand.

use super::ModelIdentity;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Vectors of the same model differ by rounding between processors and, at remote endpoints, between calls; never by so
/// much. Below this cosine it is another model.
pub const SAME: f32 = 0.999;

/// Texts of different kinds, so that a model which differs only in some respect shows it: a question, a command, prose,
/// numbers, other languages and scripts, a single word, and one long enough that another truncation shows. They are part
/// of every stored fingerprint: never change them.
pub const PROBES: [&str; 8] = [
    "How do I restore a PostgreSQL database from a base backup?",
    "SELECT relname, n_dead_tup FROM pg_stat_user_tables WHERE n_dead_tup > 10000 ORDER BY 2 DESC;",
    "The old lighthouse keeper climbed the stairs every evening, long after the ships had stopped coming.",
    "Invoice 2024-0417: 3 × 19.99 EUR, 7.5 % discount, due on 31/12/2024.",
    "Die Verfügbarkeit des Dienstes wird monatlich gemessen und darf 99,9 Prozent nicht unterschreiten.",
    "数据库连接池已满，请稍后重试。",
    "checksum",
    "A write-ahead log lets a database promise durability without writing every page at once. Each change is first \
     described in the log, and the log is forced to disk before the transaction reports success. Pages in memory may be \
     written later, in any order, because after a crash the server reads the log from the last checkpoint and repeats \
     what is missing. The price is that the log grows until a checkpoint makes its beginning unnecessary, and that every \
     commit waits for the disk. Group commit lets several transactions share one such wait. Replicas read the same log \
     over the network and apply it, so a replica is a recovery that never ends. If it falls behind, the primary must keep \
     old segments, or the replica has to start again from a fresh copy. An archive of the segments, together with a copy \
     of the files, allows going back to any moment in between; whoever has never tried that has no backup, only hope. \
     Try it on a quiet day, write down how long it took, and compare with what was promised.",
];

/// Whether two sets of probes come from the same model, allowing for rounding of other processors.
pub fn same_model(known: &[Vec<f32>], seen: &[Vec<f32>]) -> bool {
    !known.is_empty()
        && known.len() == seen.len()
        && known.iter().zip(seen).all(|(known, seen)| known.len() == seen.len() && cosine(known, seen) >= SAME)
}

/// A short name of a model, made from its probes: `<name>:<16 hex digits>`.
///
/// Into it go, besides name and dimension, each probe's strongest component and the cosines between the probes with two
/// decimals: few and coarse numbers, so that another processor most likely comes to the same ones. Where it does not,
/// [`same_model`] decides.
pub fn fingerprint(identity: &ModelIdentity, probes: &[Vec<f32>]) -> String {
    let mut text = format!("{}\n{}\n", identity.name, identity.dimension);
    for (number, probe) in probes.iter().enumerate() {
        let strongest = probe.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
        let (place, value) = strongest.map_or((0, 0.0), |(place, value)| (place, *value));
        let _ = write!(text, "{place}{}", if value < 0.0 { '-' } else { '+' });
        for other in &probes[..number] {
            let _ = write!(text, " {}", (cosine(probe, other) * 100.0).round() as i32);
        }
        text.push('\n');
    }
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(format!("{}:", identity.name), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

/// Not a number where there is nothing to compare, which is never "the same".
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> ModelIdentity {
        ModelIdentity { name: "some-model".to_owned(), dimension: 64 }
    }

    /// Eight vectors that look random and are always the same, moved by `noise` each.
    fn probes(seed: u32, noise: f32) -> Vec<Vec<f32>> {
        let number = |i: u32| {
            let mixed = i.wrapping_mul(0x9E37_79B9) ^ seed.wrapping_mul(0x85EB_CA6B);
            let mixed = (mixed ^ (mixed >> 16)).wrapping_mul(0x7FEB_352D);
            (mixed ^ (mixed >> 15)) as f32 / u32::MAX as f32 - 0.5
        };
        let moved = |i: u32| number(i) + noise * number(i + 7_777);
        (0..8).map(|probe| (0..64).map(|i| moved(probe * 64 + i)).collect()).collect()
    }

    #[test]
    fn rounding_is_the_same_model_and_more_is_not() {
        let known = probes(1, 0.0);
        assert!(same_model(&known, &known));
        assert!(same_model(&known, &probes(1, 0.001)));
        assert!(!same_model(&known, &probes(1, 0.2)));
        assert!(!same_model(&known, &probes(2, 0.0)));
    }

    #[test]
    fn one_probe_that_differs_is_enough() {
        let (known, mut seen) = (probes(1, 0.0), probes(1, 0.0));
        seen[5] = probes(2, 0.0)[5].clone();
        assert!(!same_model(&known, &seen));
    }

    #[test]
    fn nothing_comparable_is_never_the_same() {
        let known = probes(1, 0.0);
        assert!(!same_model(&[], &[]));
        assert!(!same_model(&known, &known[..7]));
        assert!(!same_model(&known, &vec![vec![0.0; 64]; 8]));
        assert!(!same_model(&known, &vec![vec![f32::NAN; 64]; 8]));
        assert!(!same_model(&known, &known.iter().map(|probe| probe[..32].to_vec()).collect::<Vec<_>>()));
    }

    #[test]
    fn the_fingerprint_survives_rounding_and_names_the_model() {
        let known = fingerprint(&identity(), &probes(1, 0.0));
        assert_eq!(known, fingerprint(&identity(), &probes(1, 1e-6)));
        let (name, hex) = known.split_once(':').unwrap();
        assert_eq!((name, hex.len()), ("some-model", 16));
        assert_ne!(known, fingerprint(&identity(), &probes(2, 0.0)));
        assert_ne!(known, fingerprint(&ModelIdentity { dimension: 65, ..identity() }, &probes(1, 0.0)));
    }
}
