//! Tables: what every analysis ends in.

use serde::Serialize;
use serde_json::Value;

/// A named table of typed columns, made from the rows an analysis returns.
///
/// The library's functions return vectors of row structs; a `Table` is their column form, which can be written as CSV,
/// Parquet, JSON or HTML without knowing the analysis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// Identifier, used as file name: lower case words joined by `-`.
    pub name: String,
    /// What one row is and what means are over, in one sentence.
    pub caption: String,
    /// Columns of equal length, in display order.
    pub columns: Vec<Column>,
}

/// One column of a [`Table`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Column {
    /// Header: the row struct's field name with `_` as spaces.
    pub name: String,
    /// Cells.
    pub cells: Cells,
}

/// The cells of a column; all of one type.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Cells {
    /// Whole numbers (indices, counts, ranks).
    Integer(Vec<i64>),
    /// Real numbers; `NaN` where there is none.
    Real(Vec<f64>),
    /// Text (tokens, labels).
    Text(Vec<String>),
}

impl Cells {
    /// Number of cells.
    pub fn len(&self) -> usize {
        match self {
            Cells::Integer(v) => v.len(),
            Cells::Real(v) => v.len(),
            Cells::Text(v) => v.len(),
        }
    }

    /// Whether there is no cell.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Table {
    /// The column form of `rows`. Field names become headers; integer fields integers, float fields reals, all else text. A
    /// field that some rows do not have is empty there.
    ///
    /// # Panics
    /// If a row does not serialise to a map of plain values: row structs are flat.
    pub fn from_rows<R: Serialize>(name: &str, caption: &str, rows: &[R]) -> Table {
        let rows: Vec<serde_json::Map<String, Value>> = rows
            .iter()
            .map(|row| match serde_json::to_value(row) {
                Ok(Value::Object(map)) => Some(map),
                _ => None,
            })
            .map(|map| map.expect("rows are structs with named fields of plain values, which serialise to maps"))
            .collect();
        let mut names: Vec<&String> = Vec::new();
        for row in &rows {
            // A field that not all rows have comes after those that stand before it in its own.
            let mut place = 0;
            for name in row.keys() {
                place = names.iter().position(|known| *known == name).unwrap_or_else(|| {
                    names.insert(place, name);
                    place
                }) + 1;
            }
        }
        let cell = |name: &str| cells(rows.iter().map(|row| row.get(name).unwrap_or(&Value::Null)));
        let columns = names.iter().map(|name| Column { name: name.replace('_', " "), cells: cell(name) }).collect();
        Table { name: name.into(), caption: caption.into(), columns }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.columns.first().map_or(0, |column| column.cells.len())
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn cells<'a>(values: impl Iterator<Item = &'a Value> + Clone) -> Cells {
    if values.clone().all(|v| v.is_i64() || v.is_u64()) {
        Cells::Integer(values.map(|v| v.as_i64().unwrap_or(i64::MAX)).collect())
    } else if values.clone().all(|v| v.is_number() || v.is_null()) {
        Cells::Real(values.map(|v| v.as_f64().unwrap_or(f64::NAN)).collect())
    } else {
        Cells::Text(
            values
                .map(|v| match v {
                    Value::String(s) => s.clone(),
                    Value::Null => String::new(),
                    other => other.to_string(),
                })
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_not_all_rows_have_are_empty_where_they_are_missing() {
        let rows = [json!({ "n": 2, "mean": 1.5 }), json!({ "n": 4, "prompts": 2, "mean": 0.5, "control": 0.1 })];
        let table = Table::from_rows("t", "", &rows);
        let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["n", "prompts", "mean", "control"]);
        assert_eq!(table.columns[0].cells, Cells::Integer(vec![2, 4]));
        assert!(matches!(&table.columns[3].cells, Cells::Real(cells) if cells[0].is_nan() && cells[1] == 0.1));
    }
}
