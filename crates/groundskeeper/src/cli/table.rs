//! Columns that line up.

/// Cells padded to the widest of their column; the last column is left ragged. Cells must not hold colours: paint after
/// padding with `paint`, which gets the column and the padded cell.
pub(super) fn columns(rows: &[Vec<String>], indent: &str, paint: impl Fn(usize, usize, String) -> String) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for (line, row) in rows.iter().enumerate() {
        let last = row.iter().rposition(|cell| !cell.is_empty()).unwrap_or(0);
        out.push_str(indent);
        for (column, cell) in row.iter().enumerate().take(last + 1) {
            let padding = if column == last { 0 } else { widths[column] - cell.chars().count() + 2 };
            out.push_str(&paint(line, column, cell.clone()));
            out.extend(std::iter::repeat_n(' ', padding));
        }
        out.push('\n');
    }
    out
}

/// Without colours.
pub(super) fn plain(rows: &[Vec<String>], indent: &str) -> String {
    columns(rows, indent, |_, _, cell| cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_without_blanks() {
        let rows = [vec!["a".to_owned(), "long".into(), "x".into()], vec!["bcd".to_owned(), "é".into(), String::new()]];
        assert_eq!(plain(&rows, " "), " a    long  x\n bcd  é\n");
    }
}
