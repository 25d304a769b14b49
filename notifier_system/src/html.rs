//! A mail's second form: its text as HTML, with a chart where it tells of a count. Tables, attributes and a few inline styles
//! only, and nothing to fetch, so that every mail program shows it.

use common::messages::Letter;
use maud::{DOCTYPE, Markup, html};

/// Height of the highest bar, in pixels.
const HEIGHT: i64 = 80;
/// Bars at most: the last 14 days.
const BARS: usize = 14;

const FONT: &str = "font-family:Helvetica,Arial,sans-serif;font-size:15px;line-height:22px;color:#1c2733";
const SMALL: &str = "font-family:Helvetica,Arial,sans-serif;font-size:11px;line-height:14px;color:#5b6770";
const BAR: &str = "#9db4c6";
const LAST_BAR: &str = "#1f5f99";

/// The letter as an HTML page, if it is an alert.
pub(crate) fn page(letter: &Letter) -> Option<String> {
    let alert = letter.alert.as_ref()?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; title { (letter.subject) } }
            body bgcolor="#ffffff" {
                table role="presentation" cellpadding="0" cellspacing="0" border="0" width="560" {
                    tr { td style=(FONT) { (text(&letter.body)) } }
                    @if !alert.history.is_empty() {
                        tr { td height="16" {} }
                        tr { td { (chart(&alert.history)) } }
                    }
                }
            }
        }
    };
    Some(page.into_string())
}

/// Lines as they are; links with a token as links. Others are there for programs, with the method before them.
fn text(body: &str) -> Markup {
    html! {
        @for line in body.trim_end().lines() {
            @for word in line.split_whitespace() {
                @if is_link(word) {
                    a href=(word) { (word) }
                } @else {
                    (word)
                }
                " "
            }
            br;
        }
    }
}

fn is_link(word: &str) -> bool {
    (word.starts_with("https://") || word.starts_with("http://")) && word.contains("?token=")
}

/// A bar for each day, oldest first, its height in proportion to the highest; the number stands below it.
fn chart(history: &[i64]) -> Markup {
    let days = &history[history.len().saturating_sub(BARS)..];
    let highest = days.iter().copied().max().unwrap_or_default().max(1);
    html! {
        table role="presentation" cellpadding="0" cellspacing="0" border="0" {
            tr {
                @for (place, count) in days.iter().enumerate() {
                    td width="38" height=(HEIGHT) valign="bottom" align="center" {
                        (bar(height(*count, highest), place + 1 == days.len()))
                    }
                }
            }
            tr {
                @for count in days { td width="38" align="center" style=(SMALL) { (count) } }
            }
            tr {
                td colspan=(days.len()) style=(SMALL) {
                    "Flights a day, arrivals and departures together, on the days of the last two weeks that were counted; the newest on the right."
                }
            }
        }
    }
}

fn bar(height: i64, last: bool) -> Markup {
    let colour = if last { LAST_BAR } else { BAR };
    html! {
        table role="presentation" cellpadding="0" cellspacing="0" border="0" {
            tr { td bgcolor=(colour) width="22" height=(height) style="font-size:0;line-height:0" { (maud::PreEscaped("&nbsp;")) } }
        }
    }
}

/// In pixels, at least one: no flights are a count, too.
fn height(count: i64, highest: i64) -> i64 {
    (count.clamp(0, highest).saturating_mul(HEIGHT) / highest).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn letter(body: &str, history: &[i64]) -> Letter {
        serde_json::from_value(json!({
            "id": "a", "email": "ada@example.com", "subject": "KJFK: <351> flights", "body": body,
            "airport": "KJFK", "condition": "high", "metric": "total", "value": 351, "threshold": 200,
            "window_begin": 986_256_000, "window_end": 986_342_400, "history": history
        }))
        .unwrap()
    }

    fn heights(page: &str) -> Vec<i64> {
        let bars = page.split("width=\"22\" height=\"").skip(1);
        bars.map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn bars_are_in_proportion_and_the_last_one_stands_out() {
        let page = page(&letter("x", &[0, 50, 100, 25])).unwrap();
        assert_eq!(heights(&page), [1, 40, 80, 20]);
        assert_eq!((page.matches(BAR).count(), page.matches(LAST_BAR).count()), (3, 1));
    }

    #[test]
    fn there_are_fourteen_bars_at_most() {
        let history: Vec<i64> = (1..=20).collect();
        assert_eq!(heights(&page(&letter("x", &history)).unwrap()).len(), 14);
    }

    #[test]
    fn text_is_text_and_links_are_links() {
        let page =
            page(&letter("A <b> & \"c\"\n\nPATCH https://localhost:8443/y\nNo more: https://localhost:8443/x?token=1&b=\"2\"\n", &[])).unwrap();
        assert!(page.contains("A &lt;b&gt; &amp;"), "{page}");
        assert!(page.contains("href=\"https://localhost:8443/x?token=1&amp;b=&quot;2&quot;\""), "{page}");
        assert!(page.contains("<title>KJFK: &lt;351&gt; flights</title>"), "{page}");
        assert_eq!(page.matches("href").count(), 1, "what a click cannot do is no link: {page}");
        assert!(!page.contains("<b>") && heights(&page).is_empty(), "{page}");
    }

    #[test]
    fn what_is_no_alert_has_text_only() {
        let plain = json!({"email": "ada@example.com", "subject": "s", "body": "b"});
        assert_eq!(page(&serde_json::from_value(plain).unwrap()), None);
    }

    proptest! {
        #[test]
        fn any_history_fits(history in proptest::collection::vec(any::<i64>(), 1..30)) {
            let heights = heights(&page(&letter("x", &history)).unwrap());
            prop_assert!(heights.iter().all(|height| (1..=HEIGHT).contains(height)));
        }
    }
}
