//! gRPC filters as the JSON that REST takes, so that the engine's own parser judges both.

use qdrant_client::qdrant::{self as wire, condition::ConditionOneOf, r#match::MatchValue};
use serde_json::{Map, Value, json};

use super::from_wire::point_id;
use crate::stand_in::error::{Error, Result};

pub(super) fn filter(filter: wire::Filter) -> Result<qdrant_edge::Filter> {
    serde_json::from_value(filter_json(filter)?).map_err(|error| Error::BadInput(error.to_string()))
}

fn conditions(conditions: Vec<wire::Condition>) -> Result<Vec<Value>> {
    conditions.into_iter().map(condition).collect()
}

fn filter_json(filter: wire::Filter) -> Result<Value> {
    let mut json = Map::new();
    for (key, clauses) in [("should", filter.should), ("must", filter.must), ("must_not", filter.must_not)] {
        if !clauses.is_empty() {
            json.insert(key.to_owned(), conditions(clauses)?.into());
        }
    }
    if let Some(min) = filter.min_should {
        let min_should = json!({ "conditions": conditions(min.conditions)?, "min_count": min.min_count });
        json.insert("min_should".to_owned(), min_should);
    }
    Ok(json.into())
}

fn condition(condition: wire::Condition) -> Result<Value> {
    Ok(match condition.condition_one_of {
        Some(ConditionOneOf::Field(field)) => self::field(field)?,
        Some(ConditionOneOf::IsEmpty(empty)) => json!({ "is_empty": { "key": empty.key } }),
        Some(ConditionOneOf::IsNull(field)) => json!({ "is_null": { "key": field.key } }),
        Some(ConditionOneOf::HasId(ids)) => {
            let ids = ids.has_id.into_iter().map(|id| point_id(Some(id))).collect::<Result<Vec<_>>>()?;
            json!({ "has_id": ids })
        }
        Some(ConditionOneOf::HasVector(name)) => json!({ "has_vector": name.has_vector }),
        Some(ConditionOneOf::Filter(inner)) => filter_json(inner)?,
        Some(ConditionOneOf::Nested(nested)) => {
            let filter = filter_json(nested.filter.unwrap_or_default())?;
            json!({ "nested": { "key": nested.key, "filter": filter } })
        }
        Some(ConditionOneOf::Slice(_)) => return Err(Error::Unsupported("slice conditions".to_owned())),
        None => return Err(Error::BadInput("Malformed Condition type".to_owned())),
    })
}

fn field(field: wire::FieldCondition) -> Result<Value> {
    if field.geo_bounding_box.is_some() || field.geo_radius.is_some() || field.geo_polygon.is_some() {
        return Err(Error::Unsupported("geo conditions".to_owned()));
    }
    let mut json = Map::from_iter([("key".to_owned(), Value::String(field.key))]);
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            json.insert(key.to_owned(), value);
        }
    };
    put("match", field.r#match.and_then(|wanted| wanted.match_value).map(match_json).transpose()?);
    put("range", field.range.map(|range| bounds(range.lt, range.gt, range.gte, range.lte)));
    let times =
        field.datetime_range.map(|range| bounds(time(range.lt), time(range.gt), time(range.gte), time(range.lte)));
    put("range", times);
    put("values_count", field.values_count.map(|count| bounds(count.lt, count.gt, count.gte, count.lte)));
    put("is_empty", field.is_empty.map(Value::Bool));
    put("is_null", field.is_null.map(Value::Bool));
    Ok(json.into())
}

fn bounds<T: serde::Serialize>(lt: Option<T>, gt: Option<T>, gte: Option<T>, lte: Option<T>) -> Value {
    let bounds = [("lt", lt), ("gt", gt), ("gte", gte), ("lte", lte)];
    let given = bounds.into_iter().filter_map(|(name, bound)| Some((name.to_owned(), json!(bound?))));
    Value::Object(given.collect())
}

fn time(time: Option<wire::Timestamp>) -> Option<String> {
    let time = time?;
    jiff::Timestamp::new(time.seconds, time.nanos).ok().map(|time| time.to_string())
}

fn match_json(wanted: MatchValue) -> Result<Value> {
    Ok(match wanted {
        MatchValue::Keyword(word) => json!({ "value": word }),
        MatchValue::Integer(number) => json!({ "value": number }),
        MatchValue::Boolean(bool) => json!({ "value": bool }),
        MatchValue::Text(text) => json!({ "text": text }),
        MatchValue::TextAny(text) => json!({ "text_any": text }),
        MatchValue::Phrase(text) => json!({ "phrase": text }),
        MatchValue::Keywords(words) => json!({ "any": words.strings }),
        MatchValue::Integers(numbers) => json!({ "any": numbers.integers }),
        MatchValue::ExceptKeywords(words) => json!({ "except": words.strings }),
        MatchValue::ExceptIntegers(numbers) => json!({ "except": numbers.integers }),
        _ => return Err(Error::Unsupported("prefix and substring matches".to_owned())),
    })
}
