//! Tables and figures as files.

use std::path::Path;
use std::sync::Arc;

use directrix_circuits::{Cells, Table};
use directrix_corpus::durable;
use parquet::basic::{Compression, LogicalType, Repetition, Type as PhysicalType};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use crate::error::{Error, Result};
use crate::figure::Figure;
use crate::prompt_graph::PromptGraph;

/// Writes `table` as `NAME.csv` and `NAME.parquet` in `folder`, which is created if need be, and returns the CSV.
///
/// A real that is `NaN` is an empty CSV cell and stays `NaN` in Parquet.
///
/// # Errors
/// If the table's name cannot be a file's, or a file cannot be written.
pub fn write_table(folder: &Path, table: &Table) -> Result<String> {
    check_name(&table.name)?;
    let csv = to_csv(table).map_err(|source| Error::Csv { table: table.name.clone(), source })?;
    let parquet = to_parquet(table).map_err(|source| Error::Parquet { table: table.name.clone(), source })?;
    durable::write(&folder.join(format!("{}.csv", table.name)), &csv)?;
    durable::write(&folder.join(format!("{}.parquet", table.name)), &parquet)?;
    Ok(String::from_utf8_lossy(&csv).into_owned())
}

/// Writes `figure` as `NAME.svg` in `folder`, which is created if need be, and returns it.
///
/// # Errors
/// If the figure's name cannot be a file's, or the file cannot be written.
pub fn write_figure(folder: &Path, figure: &Figure) -> Result<String> {
    check_name(&figure.name)?;
    let svg = figure.to_svg();
    durable::write(&folder.join(format!("{}.svg", figure.name)), svg.as_bytes())?;
    Ok(svg)
}

/// Writes the drawing of an attribution graph as `NAME.svg` in `folder`, which is created if need be, and returns it.
///
/// # Errors
/// As [`write_figure`].
pub fn write_graph(folder: &Path, graph: &PromptGraph) -> Result<String> {
    check_name(&graph.name)?;
    let svg = graph.to_svg();
    durable::write(&folder.join(format!("{}.svg", graph.name)), svg.as_bytes())?;
    Ok(svg)
}

/// Names come from study files: one must not lead out of the folder.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(Error::Name { name: name.into() })
    }
}

fn to_csv(table: &Table) -> csv::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    if !table.columns.is_empty() {
        writer.write_record(table.columns.iter().map(|column| &column.name))?;
    }
    for row in 0..table.len() {
        writer.write_record(table.columns.iter().map(|column| match &column.cells {
            Cells::Integer(v) => v[row].to_string(),
            Cells::Real(v) if v[row].is_nan() => String::new(),
            Cells::Real(v) => v[row].to_string(),
            Cells::Text(v) => v[row].clone(),
        }))?;
    }
    writer.into_inner().map_err(|error| error.into_error().into())
}

fn to_parquet(table: &Table) -> parquet::errors::Result<Vec<u8>> {
    let fields = table.columns.iter().map(|column| {
        let (physical, logical) = match column.cells {
            Cells::Integer(_) => (PhysicalType::INT64, None),
            Cells::Real(_) => (PhysicalType::DOUBLE, None),
            Cells::Text(_) => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
        };
        let field = Type::primitive_type_builder(&column.name, physical).with_repetition(Repetition::REQUIRED);
        field.with_logical_type(logical).build().map(Arc::new)
    });
    let fields = fields.collect::<parquet::errors::Result<_>>()?;
    let schema = Arc::new(Type::group_type_builder("table").with_fields(fields).build()?);
    let properties = Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build());

    let mut bytes = Vec::new();
    let mut file = SerializedFileWriter::new(&mut bytes, schema, properties)?;
    let mut rows = file.next_row_group()?;
    for column in &table.columns {
        let Some(mut writer) = rows.next_column()? else { break };
        match &column.cells {
            Cells::Integer(v) => writer.typed::<Int64Type>().write_batch(v, None, None)?,
            Cells::Real(v) => writer.typed::<DoubleType>().write_batch(v, None, None)?,
            Cells::Text(v) => {
                let texts: Vec<ByteArray> = v.iter().map(|text| text.as_str().into()).collect();
                writer.typed::<ByteArrayType>().write_batch(&texts, None, None)?
            }
        };
        writer.close()?;
    }
    rows.close()?;
    file.close()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use directrix_circuits::Column;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;

    fn table(name: &str) -> Table {
        let column = |name: &str, cells| Column { name: name.into(), cells };
        Table {
            name: name.into(),
            caption: "Two rows.".into(),
            columns: vec![
                column("direction", Cells::Integer(vec![i64::MAX, -3])),
                column("mean", Cells::Real(vec![0.1 + 0.2, f64::NAN])),
                column("top, \"token\"", Cells::Text(vec![" a,\"b\"\n".into(), "\u{0}ש".into()])),
            ],
        }
    }

    #[test]
    fn csv_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        write_table(folder.path(), &table("effects")).unwrap();
        let mut reader = csv::Reader::from_path(folder.path().join("effects.csv")).unwrap();
        assert_eq!(reader.headers().unwrap(), &vec!["direction", "mean", "top, \"token\""]);
        let rows: Vec<(i64, Option<f64>, String)> = reader.deserialize().collect::<csv::Result<_>>().unwrap();
        assert_eq!(rows[0], (i64::MAX, Some(0.1 + 0.2), " a,\"b\"\n".into()));
        assert_eq!(rows[1], (-3, None, "\u{0}ש".into()));
    }

    #[test]
    fn parquet_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        write_table(folder.path(), &table("effects")).unwrap();
        let file = fs::File::open(folder.path().join("effects.parquet")).unwrap();
        let reader = SerializedFileReader::new(file).unwrap();
        let rows: Vec<Vec<Field>> = reader
            .get_row_iter(None)
            .unwrap()
            .map(|row| row.unwrap().get_column_iter().map(|(_, field)| field.clone()).collect())
            .collect();
        assert_eq!(rows[0], [Field::Long(i64::MAX), Field::Double(0.1 + 0.2), Field::Str(" a,\"b\"\n".into())]);
        assert_eq!(rows[1][0], Field::Long(-3));
        assert!(matches!(rows[1][1], Field::Double(v) if v.is_nan()));
        assert_eq!(rows[1][2], Field::Str("\u{0}ש".into()));
    }

    #[test]
    fn a_table_without_rows_or_columns_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let empty = Table { name: "empty".into(), caption: String::new(), columns: vec![] };
        write_table(folder.path(), &empty).unwrap();
        let mut headed = table("headed");
        for column in &mut headed.columns {
            column.cells = Cells::Real(vec![]);
        }
        write_table(folder.path(), &headed).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("headed.csv")).unwrap().lines().count(), 1);
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["../up", "", ".hidden", "a/b", "a\\b", "a b"] {
            assert!(matches!(write_table(folder.path(), &table(name)), Err(Error::Name { .. })), "{name}");
        }
    }
}
