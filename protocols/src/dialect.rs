//! The translator between the common model and one platform's topics and payloads.
