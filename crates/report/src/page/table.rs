//! Tables that stay tables for whoever hears them, and become lists on narrow screens: there the
//! name of a column stands before each cell.

use maud::{Markup, html};

/// A column.
pub(super) struct Column {
    name: &'static str,
    number: bool,
}

/// A row; the first cell is its header.
pub(super) struct Row {
    pub(super) cells: Vec<Markup>,
    /// Whether something is wrong with it. Its text says what.
    pub(super) bad: bool,
}

impl Column {
    pub(super) fn text(name: &'static str) -> Self {
        let number = false;
        Self { name, number }
    }

    /// Numbers, which stand flush right.
    pub(super) fn number(name: &'static str) -> Self {
        let number = true;
        Self { name, number }
    }
}

impl Row {
    pub(super) fn new(cells: Vec<Markup>) -> Self {
        let bad = false;
        Self { cells, bad }
    }
}

/// The table. Its roles are spelt out, since browsers drop them once it is laid out as lines.
pub(super) fn table(caption: &str, columns: &[Column], rows: &[Row]) -> Markup {
    html! {
        table.stack role="table" {
            caption { (caption) }
            thead role="rowgroup" {
                tr role="row" {
                    @for column in columns {
                        th scope="col" role="columnheader" class=[column.number.then_some("n")] { (column.name) }
                    }
                }
            }
            tbody role="rowgroup" {
                @for row in rows {
                    tr role="row" class=[row.bad.then_some("bad")] {
                        @for (cell, column) in row.cells.iter().zip(columns).take(1) {
                            th scope="row" role="rowheader" class=[column.number.then_some("n")] { (cell) }
                        }
                        @for (cell, column) in row.cells.iter().zip(columns).skip(1) {
                            td role="cell" data-label=(column.name) class=[column.number.then_some("n")] { (cell) }
                        }
                    }
                }
            }
        }
    }
}

/// How many rows a table shows, and a sentence about the rest.
pub(super) fn shortened(shown: usize, all: usize, file: &str) -> Markup {
    html! {
        @if all > shown {
            p.small.soft { "The first " (shown) " of " (all) " are shown. All of them are in " code { (file) } "." }
        }
    }
}
