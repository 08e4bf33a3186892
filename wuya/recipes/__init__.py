"""The steps, one file a command, in the order of the story: text, tokenizer, base, SFT, rankings, reward, PPO."""
