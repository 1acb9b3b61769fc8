//! Internal CA, leaf issuing, sealed keys, rustls configs that reload
