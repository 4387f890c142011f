//! The points that the recorder stored.
//!
//! Payloads follow from the id. Vectors were not recorded; these are made so that the recorded queries have the recorded
//! answers: each hit lies at its recorded cosine from the query, and everything else is farther away.

use std::collections::BTreeMap;

use serde_json::{Value, json};

const SIZE: usize = 32;
/// Points came in twenty topics; the recorded query is about this one.
const TOPICS: u64 = 20;
const TOPIC: u64 = 3;

#[derive(Debug)]
pub(super) struct Points {
    query: Vec<f32>,
    hits: BTreeMap<u64, f32>,
    /// Those few whose vectors are in the recording.
    recorded: BTreeMap<u64, Value>,
}

fn numbers(vector: &Value) -> Vec<f32> {
    vector.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    for x in &mut vector {
        *x /= length;
    }
    vector
}

/// Numbers in -1..1 that depend on `seed` only.
fn noise(seed: u64) -> impl Iterator<Item = f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
    .skip(8)
}

impl Points {
    pub(super) fn new(upsert: &Value, query: &Value, answer: &Value) -> Self {
        let hits = answer["result"]["points"].as_array().unwrap();
        let hit = |point: &Value| (point["id"].as_u64().unwrap(), point["score"].as_f64().unwrap() as f32);
        let recorded = upsert["points"].as_array().unwrap().iter().filter(|point| point.is_object());
        Self {
            query: unit(numbers(&query["query"])),
            hits: hits.iter().map(hit).collect(),
            recorded: recorded.map(|point| (point["id"].as_u64().unwrap(), point.clone())).collect(),
        }
    }

    /// A unit vector at the cosine `nearness` from the query, in a direction that depends on `seed`.
    fn at(&self, nearness: f32, seed: u64) -> Vec<f32> {
        let random: Vec<f32> = noise(seed).take(SIZE).collect();
        let along: f32 = random.iter().zip(&self.query).map(|(x, q)| x * q).sum();
        let across = unit(random.iter().zip(&self.query).map(|(x, q)| x - along * q).collect());
        let rest = (1.0 - nearness * nearness).sqrt();
        self.query.iter().zip(across).map(|(q, x)| nearness * q + rest * x).collect()
    }

    fn vector(&self, id: u64) -> Vec<f32> {
        let spread = noise(id).nth(50).unwrap_or_default();
        match self.hits.get(&id) {
            Some(cosine) => self.at(*cosine, id),
            None if id % TOPICS == TOPIC => self.at(0.8 + 0.15 * spread, id),
            None => {
                let centre = self.at(0.1, u64::MAX - id % TOPICS);
                unit(centre.iter().zip(self.at(0.1, id)).map(|(c, x)| c + 0.5 * x).collect())
            }
        }
    }

    fn point(&self, id: u64) -> Value {
        if let Some(recorded) = self.recorded.get(&id) {
            return recorded.clone();
        }
        let hash = (id * 0x9e37_79b1) & 0xffff_ffff;
        json!({ "id": id, "vector": self.vector(id), "payload": {
            "doc_id": format!("d{}", id / 5),
            "chunk_hash": format!("{hash:08x}"),
            "model_fingerprint": "mini-l6",
            "generation": 1,
            "tenant": if id.is_multiple_of(2) { "b" } else { "a" },
        }})
    }

    /// The body of the upsert of these ids.
    pub(super) fn upsert(&self, ids: std::ops::Range<u64>) -> String {
        json!({ "points": ids.map(|id| self.point(id)).collect::<Vec<_>>() }).to_string()
    }
}
