//! Counts of what intervals and tests got right, and rows of a table of them.

use serde_json::Value;

/// How often an interval holds the truth, or a test finds what is not there.
#[derive(Debug, Default, Clone)]
pub struct Count {
    pub looked_at: usize,
    pub truth_below: usize,
    pub truth_above: usize,
    pub none: usize,
    width: f64,
}

impl Count {
    pub fn interval(&mut self, interval: &Value, truth: f64) {
        self.looked_at += 1;
        let end = |name: &str| interval[name].as_f64();
        let Some((low, high)) = end("low").zip(end("high")) else {
            self.none += 1;
            return;
        };
        self.truth_below += usize::from(truth < low);
        self.truth_above += usize::from(truth > high);
        self.width += high - low;
    }

    /// A test; it is an error to find something.
    pub fn test(&mut self, found: bool) {
        self.looked_at += 1;
        self.truth_above += usize::from(found);
    }

    pub fn percent(&self, count: usize) -> f64 {
        100.0 * count as f64 / (self.looked_at - self.none) as f64
    }

    /// % of the intervals that hold the truth.
    pub fn covered(&self) -> f64 {
        100.0 - self.percent(self.truth_below + self.truth_above)
    }

    pub fn interval_row(&self, figure: &str, regime: &str) -> String {
        format!(
            "| {figure} | {regime} | 95 | {:.1} | {:.1} / {:.1} | {:.2} | {} |",
            self.covered(),
            self.percent(self.truth_below),
            self.percent(self.truth_above),
            self.width / (self.looked_at - self.none) as f64,
            self.looked_at - self.none,
        )
    }

    pub fn test_row(&self, test: &str, regime: &str) -> String {
        format!(
            "| {test} | {regime} | 5 | {:.1} | {} |",
            self.percent(self.truth_above),
            self.looked_at
        )
    }
}

/// Prints a row for each figure of a regime.
pub fn print_intervals(regime: &str, figures: &[(&Count, &str)]) {
    for (count, figure) in figures {
        println!("{}", count.interval_row(figure, regime));
    }
}

/// Prints the head of the table of intervals.
pub fn print_interval_header() {
    println!(
        "| figure | regime | nominal % | covered % | truth below / above % | mean width | simulations |"
    );
    println!("|---|---|---|---|---|---|---|");
}

/// Prints the table of tests.
pub fn print_tests(rows: &[String]) {
    println!("\n| test | regime | nominal % | found by chance % | simulations |");
    println!("|---|---|---|---|---|");
    rows.iter().for_each(|row| println!("{row}"));
}
