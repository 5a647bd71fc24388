"""Label review: people decide about findings, and what they decided is signed and applied.

``budget`` chooses what people look at, ``session`` and ``app`` ask them on a local page, ``journal`` keeps their
answers, ``quality`` says what the answers are worth, ``attestation`` signs them, ``decisions`` applies them.
"""
