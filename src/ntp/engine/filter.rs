//! The filter of one source: an NTP server, whose answers have a round trip, or a reference clock.

use std::time::Duration;

use ntp_proto::{
    KalmanClockController, KalmanControllerMessage, KalmanSourceMessage, Measurement, NtpDuration,
    ObservableSourceTimedata, PollInterval, PollIntervalLimits, SourceConfig, SourceController,
    TimeSyncController,
};

use super::library::{SteeredClock, ntp_duration};
use super::{POLL_LIMITS, SourceId};
use crate::clock::Reading;

/// A filter that is more certain of its source than this does not weigh in with others.
const WORST_ACCURACY: Duration = Duration::from_millis(100);
/// The samples of a reference clock scatter by this part of its error.
const SCATTER: u32 = 20;
/// No stamp of a sample is better than this.
const LEAST_NOISE: Duration = Duration::from_micros(1);

type Controller<S> = KalmanClockController<SteeredClock, S>;

#[derive(Debug)]
pub(super) enum Filter<S: SourceId> {
    OneWay(<Controller<S> as TimeSyncController>::OneWaySourceController),
    TwoWay(<Controller<S> as TimeSyncController>::NtpSourceController),
}

impl<S: SourceId> Filter<S> {
    /// The filter that fits the first `reading` of `source`.
    pub(super) fn new(controller: &mut Controller<S>, source: S, reading: &Reading) -> Self {
        if reading.stratum > 0 {
            return Self::TwoWay(controller.add_source(source, source_config()));
        }
        // No round trip tells how much its samples scatter. A receiver errs by a constant mostly,
        // but told that it never scatters the filter would follow every sample.
        let noise = (reading.error / SCATTER).max(LEAST_NOISE).as_secs_f64();
        let accuracy = reading.error.min(WORST_ACCURACY).as_secs_f64();
        let config = source_config();
        Self::OneWay(controller.add_one_way_source(source, config, noise * noise, accuracy, None))
    }

    pub(super) fn handle_measurement(
        &mut self,
        measurement: Measurement<NtpDuration>,
    ) -> Option<KalmanSourceMessage<S>> {
        match self {
            Self::OneWay(filter) => filter.handle_measurement(Measurement {
                delay: (),
                offset: measurement.offset,
                localtime: measurement.localtime,
                monotime: measurement.monotime,
                stratum: measurement.stratum,
                root_delay: measurement.root_delay,
                // A clock that is nearer than this is not corrected.
                root_dispersion: ntp_duration(
                    measurement.root_dispersion.to_seconds() / f64::from(SCATTER),
                ),
                leap: measurement.leap,
                precision: measurement.precision,
            }),
            Self::TwoWay(filter) => filter.handle_measurement(measurement),
        }
    }

    pub(super) fn handle_message(&mut self, message: KalmanControllerMessage) {
        match self {
            Self::OneWay(filter) => filter.handle_message(message),
            Self::TwoWay(filter) => filter.handle_message(message),
        }
    }

    pub(super) fn observe(&self) -> ObservableSourceTimedata {
        match self {
            Self::OneWay(filter) => filter.observe(),
            Self::TwoWay(filter) => filter.observe(),
        }
    }

    pub(super) fn desired_poll_interval(&self) -> PollInterval {
        match self {
            Self::OneWay(filter) => filter.desired_poll_interval(),
            Self::TwoWay(filter) => filter.desired_poll_interval(),
        }
    }
}

fn source_config() -> SourceConfig {
    let (min, max) = POLL_LIMITS;
    let min = PollInterval::from_byte(min.cast_unsigned());
    let max = PollInterval::from_byte(max.cast_unsigned());
    SourceConfig {
        poll_interval_limits: PollIntervalLimits { min, max },
        initial_poll_interval: min,
    }
}
