//! Time-lapse: flight time that runs faster than the clock on the wall, and goes on where it stopped.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use common::clock::Clock;
use common::service::StartError;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// How much faster: `1d=20s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lapse {
    flight: Duration,
    real: Duration,
}

impl Lapse {
    fn factor(self) -> u32 {
        u32::try_from(self.flight.as_millis() / self.real.as_millis()).unwrap_or(u32::MAX)
    }
}

impl FromStr for Lapse {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Lapse, &'static str> {
        let invalid = "must be like 1d=20s: flight time, and the shorter real time that it takes";
        let (flight, real) = text.split_once('=').ok_or(invalid)?;
        let parse = |text| humantime::parse_duration(text).map_err(|_| invalid);
        let (flight, real) = (parse(flight)?, parse(real)?);
        let fits =
            real.as_millis() > 0 && (1..=100_000).contains(&(flight.as_millis() / real.as_millis().max(1)));
        fits.then_some(Lapse { flight, real }).ok_or(invalid)
    }
}

impl fmt::Display for Lapse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (flight, real) = (humantime::format_duration(self.flight), humantime::format_duration(self.real));
        write!(f, "{flight} of flights in {real}")
    }
}

/// What a data directory remembers of its flight time.
#[derive(Serialize, Deserialize)]
struct Memory {
    /// Whether its flight time is lapsed.
    lapsed: bool,
    /// Whether its flights are recorded ones.
    recorded: bool,
    /// The flight time when it was last open, Unix seconds.
    flight_time: i64,
}

/// The flight time of a data directory.
pub(crate) struct FlightTime {
    pub(crate) clock: Clock,
    file: PathBuf,
    lapsed: bool,
    recorded: bool,
}

impl FlightTime {
    /// Goes on where the directory stopped. One that holds windows of another time (lapsed or not) or flights of another
    /// kind (recorded or not) is refused: they would be counted together.
    pub(crate) fn open(data_dir: &Path, lapse: Option<Lapse>, recorded: bool) -> anyhow::Result<FlightTime> {
        let file = data_dir.join("flight-time.json");
        let memory: Option<Memory> = match std::fs::read(&file) {
            Ok(text) => Some(
                serde_json::from_slice(&text).with_context(|| format!("{} is damaged", file.display()))?,
            ),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| file.display().to_string()),
        };
        if let Some(memory) = &memory {
            memory.must_be(data_dir, lapse.is_some(), recorded)?;
        }
        let clock = match lapse {
            Some(lapse) => {
                let origin = memory.map_or_else(|| Clock::System.now(), |memory| memory.flight_time);
                Clock::scaled(origin, lapse.factor())
            }
            None => Clock::System,
        };
        let time = FlightTime { clock, file, lapsed: lapse.is_some(), recorded };
        time.remember()?;
        Ok(time)
    }

    /// Keeps a lapsed time up to date, every second and at the end. What cannot be written now is written a second later.
    pub(crate) async fn keep(self, token: CancellationToken) {
        let every = if self.lapsed { Duration::from_secs(1) } else { Duration::MAX };
        while token.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            self.remember_or_warn();
        }
        self.remember_or_warn();
    }

    fn remember_or_warn(&self) {
        if let Err(error) = self.remember() {
            tracing::warn!(error = format!("{error:#}"), "the flight time could not be written down");
        }
    }

    /// Written beside, synced and renamed, so that the file is always whole.
    fn remember(&self) -> anyhow::Result<()> {
        let memory = Memory { lapsed: self.lapsed, recorded: self.recorded, flight_time: self.clock.now() };
        let part = self.file.with_added_extension("part");
        let write = || {
            let mut file = File::create(&part)?;
            file.write_all(&serde_json::to_vec(&memory)?)?;
            file.sync_all()?;
            std::fs::rename(&part, &self.file)
        };
        write().with_context(|| self.file.display().to_string())
    }
}

impl Memory {
    fn must_be(&self, data_dir: &Path, lapsed: bool, recorded: bool) -> Result<(), StartError> {
        let folder = data_dir.display();
        let refuse = |why: String| Err(StartError::new(format!("{why}, or take another DATA_DIR")));
        match (self.lapsed, lapsed) {
            (true, false) => {
                return refuse(format!("TIME_LAPSE: {folder} was made with a time-lapse; give one"));
            }
            (false, true) => {
                return refuse(format!("TIME_LAPSE: {folder} was made without a time-lapse; leave it out"));
            }
            _ => {}
        }
        match (self.recorded, recorded) {
            (true, false) => refuse(format!("OPENSKY_CLIENT_ID: {folder} holds recorded flights; unset it")),
            (false, true) => refuse(format!("OPENSKY_CLIENT_ID: {folder} holds flights of OpenSky; set it")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lapse_is_flight_time_and_shorter_real_time() {
        assert_eq!("1d=20s".parse::<Lapse>().unwrap().factor(), 4320);
        for bad in ["", "1d", "1d=", "=20s", "20s=1d", "1d=0s", "1d=1ms", "a=b"] {
            assert!(bad.parse::<Lapse>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn a_directory_goes_on_where_it_stopped_and_refuses_the_other_mode() {
        let folder = common::testing::temp_path("data");
        std::fs::create_dir(&folder).unwrap();
        let lapse: Lapse = "1d=20s".parse().unwrap();
        let begun = FlightTime::open(&folder, Some(lapse), true).unwrap().clock.now();
        let memory =
            serde_json::to_vec(&Memory { lapsed: true, recorded: true, flight_time: begun + 864_000 })
                .unwrap();
        std::fs::write(folder.join("flight-time.json"), memory).unwrap();
        assert!(FlightTime::open(&folder, Some(lapse), true).unwrap().clock.now() >= begun + 864_000);
        let refused = FlightTime::open(&folder, None, true).err().unwrap();
        assert!(refused.is::<StartError>() && refused.to_string().contains("time-lapse"), "{refused}");
        let refused = FlightTime::open(&folder, Some(lapse), false).err().unwrap();
        assert!(refused.is::<StartError>() && refused.to_string().contains("recorded flights"), "{refused}");
    }
}
