//! Eigenvectors of a symmetric matrix: the right singular vectors of the rows that it is the Gram matrix of.
//!
//! A library would serve, but those at hand contract or reorder sums by processor; rankings would not be reproducible.

/// Adds `x xᵀ` of every row `x` of `rows` `[row, dim]` to `gram` `[dim, dim]`, one row after the other.
///
/// # Panics
/// When `gram` is not `dim` by `dim`.
pub fn add_gram(rows: &[f32], dim: usize, gram: &mut [f64]) {
    assert_eq!(gram.len(), dim * dim, "the Gram matrix is dim by dim");
    for row in rows.chunks_exact(dim) {
        for (x, sums) in row.iter().zip(gram.chunks_exact_mut(dim)) {
            let x = f64::from(*x);
            sums.iter_mut().zip(row).for_each(|(sum, y)| *sum += x * f64::from(*y));
        }
    }
}

/// Eigenvalues and orthonormal eigenvectors `[vector, dim]` of the symmetric `matrix` `[dim, dim]`, the largest
/// eigenvalue first; of equal ones, in the order in which they were found.
///
/// Jacobi's method: each rotation makes one element off the diagonal 0; sweeps over all of them go on until they are
/// negligible in double precision.
///
/// # Panics
/// When `matrix` is not `dim` by `dim`.
pub fn eigenvectors(mut matrix: Vec<f64>, dim: usize) -> (Vec<f64>, Vec<f64>) {
    assert_eq!(matrix.len(), dim * dim, "the matrix is dim by dim");
    let mut vectors = vec![0.0; dim * dim];
    (0..dim).for_each(|i| vectors[i * dim + i] = 1.0);
    let total: f64 = matrix.iter().map(|x| x * x).sum();
    // Convergence is quadratic: a handful of sweeps is enough for any size.
    for _ in 0..30 {
        let off: f64 = (0..dim).flat_map(|i| (0..i).map(move |j| i * dim + j)).map(|at| matrix[at] * matrix[at]).sum();
        if off <= total * 1e-30 {
            break;
        }
        for p in 0..dim {
            for q in p + 1..dim {
                rotate(&mut matrix, &mut vectors, dim, p, q);
            }
        }
    }
    let mut ranking: Vec<usize> = (0..dim).collect();
    ranking.sort_by(|a, b| matrix[b * dim + b].total_cmp(&matrix[a * dim + a]));
    let values = ranking.iter().map(|i| matrix[i * dim + i]).collect();
    (values, ranking.iter().flat_map(|i| &vectors[i * dim..][..dim]).copied().collect())
}

/// Rotates rows and columns p and q (`p < q`) so that their common element becomes 0.
fn rotate(matrix: &mut [f64], vectors: &mut [f64], dim: usize, p: usize, q: usize) {
    let off = matrix[p * dim + q];
    if off == 0.0 {
        return;
    }
    let (pp, qq) = (matrix[p * dim + p], matrix[q * dim + q]);
    let theta = (qq - pp) / (2.0 * off);
    let tan = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let cos = 1.0 / (tan * tan + 1.0).sqrt();
    let sin = tan * cos;
    turn(matrix, dim, p, q, cos, sin);
    // The rows are right but for the elements in columns p and q; the other rows follow by symmetry.
    for i in 0..dim {
        matrix[i * dim + p] = matrix[p * dim + i];
        matrix[i * dim + q] = matrix[q * dim + i];
    }
    matrix[p * dim + p] = pp - tan * off;
    matrix[q * dim + q] = qq + tan * off;
    matrix[p * dim + q] = 0.0;
    matrix[q * dim + p] = 0.0;
    turn(vectors, dim, p, q, cos, sin);
}

/// Rows p and q become `cos p − sin q` and `sin p + cos q`.
fn turn(rows: &mut [f64], dim: usize, p: usize, q: usize, cos: f64, sin: f64) {
    let (above, below) = rows.split_at_mut(q * dim);
    for (x, y) in above[p * dim..][..dim].iter_mut().zip(&mut below[..dim]) {
        (*x, *y) = (cos * *x - sin * *y, sin * *x + cos * *y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn vectors_are_orthonormal_and_make_the_matrix_diagonal(
            dim in 1usize..40,
            rows in 0usize..60,
            coarse in any::<bool>(),
            data in proptest::collection::vec(-3f32..3.0, 40 * 60),
        ) {
            let data: Vec<f32> = if coarse { data.iter().map(|x| (x / 2.0).round()).collect() } else { data };
            let rows = &data[..rows * dim];
            let mut gram = vec![0.0; dim * dim];
            add_gram(rows, dim, &mut gram);
            let (values, vectors) = eigenvectors(gram, dim);
            prop_assert!(values.is_sorted_by(|a, b| a >= b));
            for (i, a) in vectors.chunks_exact(dim).enumerate() {
                for (j, b) in vectors.chunks_exact(dim).enumerate() {
                    prop_assert!((dot(a, b) - f64::from(i == j)).abs() < 1e-12);
                    // aᵀ (Σ x xᵀ) b, from the rows themselves
                    let project = |x: &[f32], v: &[f64]| x.iter().zip(v).map(|(x, v)| f64::from(*x) * v).sum::<f64>();
                    let between: f64 = rows.chunks_exact(dim).map(|x| project(x, a) * project(x, b)).sum();
                    let expected = if i == j { values[i] } else { 0.0 };
                    prop_assert!((between - expected).abs() < 1e-9 * values[0].max(1.0), "{between} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_known_matrix_has_its_eigenvalues() {
        let (values, vectors) = eigenvectors(vec![2.0, 1.0, 1.0, 2.0], 2);
        assert!((values[0] - 3.0).abs() < 1e-15 && (values[1] - 1.0).abs() < 1e-15);
        assert!((vectors[0] - vectors[1]).abs() < 1e-15);
    }
}
