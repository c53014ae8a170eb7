//! An embedded MQTT server.
