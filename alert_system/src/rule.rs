//! The threshold rule: plain Rust, no I/O.

use common::messages::{WatchingUser, WindowCounted};
use common::types::{Condition, Counts, Notify, Thresholds};

/// A count that is out of a person's range, and about which they want to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Crossing {
    pub(crate) condition: Condition,
    pub(crate) value: i64,
    pub(crate) threshold: i64,
}

/// Judges one window for one person.
pub(crate) fn judge(window: &WindowCounted, user: &WatchingUser) -> Option<Crossing> {
    // Thresholds that contradict each other cannot come from data_collector; from others they fire for nobody.
    let range = Thresholds::new(user.low_value, user.high_value).ok()?;
    let value = user.metric.of(window.counts());
    let (condition, threshold) = range.crossed(value)?;
    // No preceding window counts as in range.
    let before = window.previous.and_then(|previous| range.crossed(user.metric.of(Counts::from(previous))));
    let news = before.is_none_or(|(before, _)| before != condition);
    (user.notify == Notify::EveryWindow || news).then_some(Crossing { condition, value, threshold })
}

#[cfg(test)]
mod tests {
    use common::messages::PreviousCounts;
    use common::types::Metric;
    use proptest::prelude::*;

    use super::*;

    fn window(arrival_count: i64, departure_count: i64, previous: Option<(i64, i64)>) -> WindowCounted {
        WindowCounted {
            id: "w".into(),
            airport: "KJFK".parse().unwrap(),
            airport_name: None,
            window_begin: 0,
            window_end: 86_400,
            arrival_count,
            departure_count,
            previous: previous
                .map(|(arrival_count, departure_count)| PreviousCounts { arrival_count, departure_count }),
            history: vec![],
            users: vec![],
        }
    }

    fn user(low_value: Option<i64>, high_value: Option<i64>, metric: Metric, notify: Notify) -> WatchingUser {
        let email = "ada@example.com".parse().unwrap();
        WatchingUser { account: None, email, high_value, low_value, metric, notify, unsubscribe: None }
    }

    #[test]
    fn the_metric_chooses_what_is_counted() {
        let window = window(172, 179, None);
        let every = |metric| judge(&window, &user(None, Some(175), metric, Notify::EveryWindow));
        assert_eq!(every(Metric::Total).unwrap().value, 351);
        assert_eq!(every(Metric::Arrivals), None);
        assert_eq!(every(Metric::Departures).unwrap().value, 179);
    }

    #[test]
    fn on_change_speaks_only_when_the_side_differs() {
        let on_change = user(Some(100), Some(200), Metric::Total, Notify::OnChange);
        let side =
            |now, before| judge(&window(now, 0, before), &on_change).map(|crossing| crossing.condition);
        assert_eq!(side(300, None), Some(Condition::High), "no preceding window counts as in range");
        assert_eq!(side(300, Some((150, 0))), Some(Condition::High));
        assert_eq!(side(300, Some((250, 0))), None);
        assert_eq!(side(50, Some((250, 0))), Some(Condition::Low));
        assert_eq!(side(150, Some((250, 0))), None, "coming back into range is no alert");
    }

    #[test]
    fn a_low_threshold_of_zero_never_fires() {
        let user = user(Some(0), None, Metric::Total, Notify::EveryWindow);
        assert_eq!(judge(&window(0, 0, None), &user), None);
    }

    proptest! {
        #[test]
        fn a_crossing_is_beyond_its_threshold(
            arrivals in 0i64..500, low in proptest::option::of(0i64..500), high in proptest::option::of(0i64..500)
        ) {
            let user = user(low, high, Metric::Arrivals, Notify::EveryWindow);
            match judge(&window(arrivals, 7, None), &user) {
                Some(Crossing { condition: Condition::High, value, threshold }) => {
                    prop_assert!(value == arrivals && Some(threshold) == high && value > threshold);
                }
                Some(Crossing { condition: Condition::Low, value, threshold }) => {
                    prop_assert!(value == arrivals && Some(threshold) == low && value < threshold);
                }
                None => prop_assert!(
                    low.zip(high).is_some_and(|(low, high)| high <= low)
                        || low.is_none_or(|low| arrivals >= low) && high.is_none_or(|high| arrivals <= high)
                ),
            }
        }
    }
}
