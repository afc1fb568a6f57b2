//! Tables for the Arrow PyCapsule interface, by which data frames of any library take them.

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{ArrayRef, Float64Array, Int64Array, NullArray, RecordBatch, RecordBatchIterator, StringArray};
use arrow_schema::{ArrowError, Field, Schema};
use pimattn::core::table::{ColumnFrame, FrameCells, FrameColumn};
use std::collections::HashMap;
use std::sync::Arc;

/// A table as a stream of one batch.
pub fn stream(frame: &ColumnFrame) -> Result<FFI_ArrowArrayStream, ArrowError> {
    let arrays: Vec<ArrayRef> = frame.columns().iter().map(array).collect();
    let field = |(column, array): (&FrameColumn, &ArrayRef)| {
        let about = [("unit", column.unit), ("meaning", column.meaning)].map(|(k, v)| (k.to_string(), v.to_string()));
        Field::new(&column.name, array.data_type().clone(), true).with_metadata(HashMap::from(about))
    };
    let schema = Arc::new(Schema::new(frame.columns().iter().zip(&arrays).map(field).collect::<Vec<_>>()));
    let batch = RecordBatch::try_new(schema.clone(), arrays)?;
    Ok(FFI_ArrowArrayStream::new(Box::new(RecordBatchIterator::new([Ok(batch)], schema))))
}

fn array(column: &FrameColumn) -> ArrayRef {
    match &column.cells {
        FrameCells::Empty(rows) => Arc::new(NullArray::new(*rows)),
        FrameCells::Int(cells) => Arc::new(cells.iter().map(|n| n.map(|n| n as i64)).collect::<Int64Array>()),
        FrameCells::Float(cells, _) => Arc::new(cells.iter().collect::<Float64Array>()),
        FrameCells::Text(cells) => Arc::new(cells.iter().map(Option::as_deref).collect::<StringArray>()),
    }
}
