"""Half precision: float16 or bfloat16 where that is enough, float32 where it is not."""
