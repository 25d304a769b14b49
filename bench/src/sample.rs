//! Several measurements of one thing.

/// The measurement below which this share of them lies; 0 of none.
pub fn quantile(measured: &[f64], share: f64) -> f64 {
    let mut sorted = measured.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let place = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(place).copied().unwrap_or(0.0)
}

/// The one in the middle.
pub fn median(measured: &[f64]) -> f64 {
    quantile(measured, 0.5)
}
