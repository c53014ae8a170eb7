//! libmosquitto: C, with its own network thread.

use std::ffi::CString;

use super::cannot;
use super::mosquitto_ffi::Mosquitto;
use crate::contestant::Endless;
use crate::links::address;
use crate::work::{TOPIC, Task, Work};

/// Messages of QoS 0 that the library may hold unwritten.
const QUEUED_MAX: usize = 1000;

/// Publishes.
pub(crate) fn run(work: &Work) -> Endless {
    let Task::Publish(task) = work.task else {
        return Err(cannot(work));
    };
    let address = address(work, 0)?;
    let client = Mosquitto::connect(&address.ip().to_string(), address.port(), task.window)?;
    let topic = CString::new(TOPIC)?;
    let payload = vec![b'x'; task.payload_len];
    let outstanding_max = match task.qos {
        0 => QUEUED_MAX,
        _ => usize::from(task.window),
    };
    let mut sent = 0;
    loop {
        while sent - client.ended() < outstanding_max {
            client.publish(&topic, &payload, task.qos)?;
            sent += 1;
        }
        std::thread::yield_now();
    }
}
