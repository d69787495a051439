//! Parquet: rows are gathered by column, and written as a row group once there are enough of them.

use std::fs::File;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::Sink;
use super::columns::{Cell, Column, Kind, Row};
use crate::error::ReportError;

/// Rows in a group, which are held in memory.
const GROUP: usize = 65_536;

/// See the module.
pub(super) struct Columnar {
    writer: SerializedFileWriter<File>,
    columns: Vec<Gathered>,
    rows: usize,
}

/// A column's values of the group in the making: one level a row, 1 where there is a value.
#[derive(Default)]
struct Gathered {
    levels: Vec<i16>,
    bools: Vec<bool>,
    numbers: Vec<i64>,
    texts: Vec<ByteArray>,
}

impl Columnar {
    pub(super) fn new(file: File) -> Result<Self, ReportError> {
        let schema = Arc::new(parse_message_type(&schema())?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(format!("sealwire {}", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            writer: SerializedFileWriter::new(file, schema, Arc::new(properties))?,
            columns: Column::ALL.iter().map(|_| Gathered::default()).collect(),
            rows: 0,
        })
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let mut group = self.writer.next_row_group()?;
        for (column, gathered) in Column::ALL.iter().zip(&mut self.columns) {
            let Some(mut writer) = group.next_column()? else {
                return Err(ParquetError::General(format!(
                    "the schema has no column {}",
                    column.name()
                )));
            };
            let levels = Some(gathered.levels.as_slice());
            match column.kind() {
                Kind::Bool => {
                    writer
                        .typed::<BoolType>()
                        .write_batch(&gathered.bools, levels, None)?;
                }
                Kind::Number | Kind::Time => {
                    writer
                        .typed::<Int64Type>()
                        .write_batch(&gathered.numbers, levels, None)?;
                }
                Kind::Text => {
                    writer
                        .typed::<ByteArrayType>()
                        .write_batch(&gathered.texts, levels, None)?;
                }
            }
            writer.close()?;
            *gathered = Gathered::default();
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }
}

impl Sink for Columnar {
    fn row(&mut self, row: Row) -> Result<(), ReportError> {
        for ((_, cell), gathered) in row.into_cells().zip(&mut self.columns) {
            gathered.levels.push(i16::from(cell.is_some()));
            match cell {
                None => {}
                Some(Cell::Bool(value)) => gathered.bools.push(value),
                Some(Cell::Number(value) | Cell::Time(value)) => gathered.numbers.push(value),
                Some(Cell::Text(value)) => gathered.texts.push(value.into_bytes().into()),
            }
        }
        self.rows += 1;
        if self.rows == GROUP {
            self.write_group()?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), ReportError> {
        if self.rows > 0 {
            self.write_group()?;
        }
        self.writer.close()?;
        Ok(())
    }
}

fn schema() -> String {
    let columns: String = Column::ALL
        .iter()
        .map(|column| {
            let (physical, logical) = match column.kind() {
                Kind::Bool => ("BOOLEAN", ""),
                Kind::Number => ("INT64", ""),
                Kind::Time => ("INT64", " (TIMESTAMP(MILLIS,true))"),
                Kind::Text => ("BYTE_ARRAY", " (STRING)"),
            };
            format!("OPTIONAL {physical} {}{logical};\n", column.name())
        })
        .collect();
    format!("message sealwire {{\n{columns}}}")
}
