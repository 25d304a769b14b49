//! The table that is printed, and whether a target was missed.

use std::process::ExitCode;

/// Prints the figures as they come.
#[derive(Default)]
pub struct Report {
    missed: bool,
}

impl Report {
    /// A line above figures.
    pub fn title(&self, title: &str) {
        println!("{title}");
    }

    /// A figure; with `Some`, its target in words and whether it is met.
    pub fn row(&mut self, what: &str, unit: &str, value: f64, target: Option<(String, bool)>) {
        let value = if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") };
        let verdict = target.map_or(String::new(), |(words, met)| {
            self.missed |= !met;
            format!("  {}({words})", if met { "" } else { "MISSED " })
        });
        println!("  {what:<50} {value:>10} {unit}{verdict}");
    }

    /// A figure that must not be less.
    pub fn at_least(&mut self, what: &str, unit: &str, value: f64, least: f64) {
        self.row(what, unit, value, Some((format!("at least {least:.0}"), value >= least)));
    }

    /// A figure that must not be more.
    pub fn at_most(&mut self, what: &str, unit: &str, value: f64, most: f64) {
        self.row(what, unit, value, Some((format!("at most {most:.0}"), value <= most)));
    }

    /// 1 when a target was missed.
    pub fn verdict(&self) -> ExitCode {
        ExitCode::from(u8::from(self.missed))
    }
}
