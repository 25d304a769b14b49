//! CPU time of other processes.

use std::time::Duration;

use anyhow::Context as _;

/// One tick of /proc/PID/stat; USER_HZ is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// User and system time of the processes, all their threads included, since they began.
pub(crate) fn spent(pids: &[u32]) -> anyhow::Result<Duration> {
    pids.iter().map(|pid| spent_by(*pid)).sum()
}

fn spent_by(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).context(path)?;
    ticks(&stat).map(|ticks| TICK * ticks).with_context(|| format!("process {pid}: unexpected stat: {stat}"))
}

/// utime + stime. The name of the process, in parentheses, may hold anything, so fields are counted from its end.
fn ticks(stat: &str) -> Option<u32> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: u32 = fields.nth(11)?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::ticks;

    #[test]
    fn a_process_with_a_strange_name_is_read_too() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 250 31 9 9 20 0 1 0 100";
        assert_eq!(ticks(stat), Some(281));
    }
}
