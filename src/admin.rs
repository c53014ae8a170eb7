//! The admin listener: `/metrics`, `/livez` and `/readyz` on a thread of its own, so that a scrape never
//! waits for devices and devices never wait for a scrape.
