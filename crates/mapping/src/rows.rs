//! The rows of a head's share of the device, handed out as its matrices grow.
//!
//! A logical row of a matrix is the same physical row in every unit of the head's channels, so that broadcast commands
//! reach it with one row address. Matrices take physical rows in the order in which they need them.

/// Rows of one head.
#[derive(Debug)]
pub struct HeadRows {
    first: u32,
    limit: u32,
    used: u32,
    /// Physical row of each logical row, by matrix.
    matrices: Vec<Vec<u32>>,
}

impl HeadRows {
    /// The `limit` rows from `first` on, for as many matrices as the head turns out to have.
    pub fn new(first: u32, limit: u32) -> Self {
        HeadRows { first, limit, used: 0, matrices: Vec::new() }
    }

    /// Extends a matrix to at least `rows` rows. Fails, naming the share, if the head has no rows left.
    pub fn reserve(&mut self, matrix: usize, rows: u32) -> Result<(), String> {
        if matrix >= self.matrices.len() {
            self.matrices.resize_with(matrix + 1, Vec::new);
        }
        let table = &mut self.matrices[matrix];
        let more = (rows as usize).saturating_sub(table.len()) as u32;
        if more > self.limit - self.used {
            let needed = u64::from(self.used) + u64::from(more);
            return Err(format!(
                "needs {needed} rows in each bank, but its share of the device is {}: fewer layers or heads a channel, \
                 more channels, or less padding",
                self.limit
            ));
        }
        table.extend((0..more).map(|i| self.first + self.used + i));
        self.used += more;
        Ok(())
    }

    /// Physical row of a reserved logical row.
    #[inline]
    pub fn at(&self, matrix: usize, row: u32) -> u32 {
        self.matrices[matrix][row as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_handed_out_once_and_not_beyond_the_share() {
        let mut rows = HeadRows::new(100, 5);
        rows.reserve(0, 2).unwrap();
        rows.reserve(1, 1).unwrap();
        rows.reserve(0, 3).unwrap();
        rows.reserve(0, 1).unwrap();
        assert_eq!([rows.at(0, 0), rows.at(0, 1), rows.at(1, 0), rows.at(0, 2)], [100, 101, 102, 103]);
        assert!(
            rows.reserve(1, 3).unwrap_err().contains("needs 6 rows in each bank, but its share of the device is 5")
        );
        rows.reserve(1, 2).unwrap();
        assert_eq!(rows.at(1, 1), 104);
    }
}
