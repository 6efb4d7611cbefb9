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
    /// The column form of `rows`. Field names become headers; integer fields integers, float fields reals, all else text.
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
        let names: Vec<String> = rows.first().map(|row| row.keys().cloned().collect()).unwrap_or_default();
        let columns = names
            .iter()
            .map(|name| Column { name: name.replace('_', " "), cells: cells(rows.iter().map(|row| &row[name])) })
            .collect();
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
