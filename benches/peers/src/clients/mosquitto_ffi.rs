//! The part of libmosquitto that its contestant needs, and the only unsafe code here.
#![expect(
    unsafe_code,
    reason = "libmosquitto is a C library; this file is the whole of what touches it"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Failure;

/// `mosq_opt_t`: TCP_NODELAY.
const MOSQ_OPT_TCP_NODELAY: c_int = 11;

type Handle = c_void;
type OnPublish = extern "C" fn(*mut Handle, *mut c_void, c_int);

unsafe extern "C" {
    fn mosquitto_lib_init() -> c_int;
    fn mosquitto_new(id: *const c_char, clean_session: bool, object: *mut c_void) -> *mut Handle;
    fn mosquitto_int_option(handle: *mut Handle, option: c_int, value: c_int) -> c_int;
    fn mosquitto_max_inflight_messages_set(handle: *mut Handle, max: u32) -> c_int;
    fn mosquitto_publish_callback_set(handle: *mut Handle, callback: OnPublish);
    fn mosquitto_connect(
        handle: *mut Handle,
        host: *const c_char,
        port: c_int,
        keep_alive: c_int,
    ) -> c_int;
    fn mosquitto_loop_start(handle: *mut Handle) -> c_int;
    fn mosquitto_publish(
        handle: *mut Handle,
        id: *mut c_int,
        topic: *const c_char,
        payload_len: c_int,
        payload: *const c_void,
        qos: c_int,
        retain: bool,
    ) -> c_int;
    fn mosquitto_strerror(code: c_int) -> *const c_char;
}

/// Messages that libmosquitto has told the end of: written at QoS 0, acknowledged at QoS 1.
static ENDED: AtomicUsize = AtomicUsize::new(0);

/// A connected client with its network thread. It lives as long as the process.
#[derive(Debug)]
pub(crate) struct Mosquitto(*mut Handle);

impl Mosquitto {
    /// Connects with TCP_NODELAY; `window` messages of QoS 1 may be in flight.
    pub(crate) fn connect(host: &str, port: u16, window: u16) -> Result<Self, Failure> {
        let (id, host) = (CString::new("libmosquitto")?, CString::new(host)?);
        // SAFETY: the strings outlive the calls, which copy them; a null object is passed back untouched;
        // the handle is checked before it is used, used by this thread alone, and never freed.
        unsafe {
            check(mosquitto_lib_init())?;
            let handle = mosquitto_new(id.as_ptr(), true, std::ptr::null_mut());
            if handle.is_null() {
                return Err("mosquitto_new gave no client".into());
            }
            check(mosquitto_int_option(handle, MOSQ_OPT_TCP_NODELAY, 1))?;
            check(mosquitto_max_inflight_messages_set(
                handle,
                u32::from(window),
            ))?;
            mosquitto_publish_callback_set(handle, on_publish);
            check(mosquitto_connect(
                handle,
                host.as_ptr(),
                c_int::from(port),
                60,
            ))?;
            check(mosquitto_loop_start(handle))?;
            Ok(Self(handle))
        }
    }

    /// Publishes one message.
    pub(crate) fn publish(&self, topic: &CStr, payload: &[u8], qos: u8) -> Result<(), Failure> {
        // SAFETY: the handle is alive for as long as the process; topic and payload outlive the call, which
        // copies them; the library guards itself against its network thread.
        unsafe {
            check(mosquitto_publish(
                self.0,
                std::ptr::null_mut(),
                topic.as_ptr(),
                c_int::try_from(payload.len())?,
                payload.as_ptr().cast(),
                c_int::from(qos),
                false,
            ))
        }
    }

    /// How many messages have ended.
    pub(crate) fn ended(&self) -> usize {
        ENDED.load(Ordering::Relaxed)
    }
}

extern "C" fn on_publish(_: *mut Handle, _: *mut c_void, _: c_int) {
    ENDED.fetch_add(1, Ordering::Relaxed);
}

fn check(code: c_int) -> Result<(), Failure> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the library returns a pointer to a text of its own that is never freed.
    let text = unsafe { CStr::from_ptr(mosquitto_strerror(code)) };
    Err(format!("libmosquitto: {}", text.to_string_lossy()).into())
}
