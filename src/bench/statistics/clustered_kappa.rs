//! Cohen's kappa of verdicts that come in clusters, such as all answers to one prompt.

use super::{
    agreement::{Kappa, KappaTerms, as_floats, kappa},
    interval::Interval,
    proportion::{MIN_CLUSTERS, student_quantile},
};

/// Computes kappa from a table of counts for each cluster, `table[first judge][second judge]`. `None` without units.
///
/// The interval uses the large-sample error of Fleiss, Cohen & Everitt (1969). What the units of a cluster contribute
/// to it is summed before it is squared (linearisation for clusters: Yang & Zhou 2014, Biometrical Journal 56:966), and
/// the quantile is Student's for the number of clusters. With one unit in every cluster the interval is the
/// large-sample one; with fewer than [`MIN_CLUSTERS`] clusters of several units there is none.
pub(crate) fn clustered_kappa<const K: usize>(clusters: &[[[u64; K]; K]]) -> Option<Kappa> {
    let mut table = [[0u64; K]; K];
    for cluster in clusters {
        for (sums, counts) in table.iter_mut().zip(cluster) {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
    let pooled = kappa(&table)?;
    let units = |cluster: &[[u64; K]; K]| cluster.iter().flatten().sum::<u64>();
    let occupied = clusters.iter().filter(|cluster| units(cluster) > 0).count() as u64;
    let Some(estimate) = pooled.kappa.filter(|_| occupied < pooled.n) else {
        return Some(pooled);
    };
    let influence = KappaTerms::of(&as_floats(&table)).influence;
    let squares: f64 = clusters
        .iter()
        .map(|cluster| {
            let cells = cluster.iter().flatten().zip(influence.iter().flatten());
            cells
                .map(|(count, influence)| *count as f64 * influence)
                .sum::<f64>()
                .powi(2)
        })
        .sum();
    let quantile = if occupied >= MIN_CLUSTERS {
        student_quantile(occupied)
    } else {
        f64::INFINITY
    };
    let half = quantile * squares.sqrt() / pooled.n as f64;
    Some(Kappa {
        interval: half.is_finite().then(|| Interval {
            low: (estimate - half).max(-1.0),
            high: (estimate + half).min(1.0),
        }),
        ..pooled
    })
}

#[cfg(test)]
mod tests {
    use super::{super::interval::Z95, *};

    const TABLE: [[u64; 2]; 2] = [[40, 9], [6, 25]];

    fn single(row: usize, column: usize) -> [[u64; 2]; 2] {
        let mut one = [[0; 2]; 2];
        one[row][column] = 1;
        one
    }

    fn units() -> Vec<[[u64; 2]; 2]> {
        let cells = [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter();
        cells
            .flat_map(|(i, j)| vec![single(i, j); TABLE[i][j] as usize])
            .collect()
    }

    #[test]
    fn single_units_have_the_large_sample_error() {
        assert_eq!(clustered_kappa(&units()), kappa(&TABLE));
        assert_eq!(clustered_kappa::<2>(&[]), None);
        // The same variance, summed from the influences.
        let influence = KappaTerms::of(&as_floats(&TABLE)).influence;
        let cells = TABLE.iter().flatten().zip(influence.iter().flatten());
        let squares: f64 = cells.map(|(count, one)| *count as f64 * one * one).sum();
        let interval = kappa(&TABLE).and_then(|k| k.interval).expect("kappa exists");
        let half = Z95 * squares.sqrt() / 80.0;
        assert!((interval.high - interval.low - 2.0 * half).abs() < 1e-12);
    }

    #[test]
    fn equal_units_of_a_cluster_count_once() {
        let five: Vec<_> = units()
            .iter()
            .map(|one| one.map(|row| row.map(|count| 5 * count)))
            .collect();
        let (alone, alike) = (
            kappa(&TABLE).expect("units"),
            clustered_kappa(&five).expect("units"),
        );
        assert_eq!((alike.kappa, alike.n), (alone.kappa, 400));
        let width = |kappa: Kappa| kappa.interval.map(|i| i.high - i.low).expect("clusters");
        assert!((width(alike) / width(alone) - 1.0).abs() < 0.02);
        assert_eq!(clustered_kappa(&five[..4]).and_then(|k| k.interval), None);
    }
}
