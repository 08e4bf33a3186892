"""From human preferences to a policy: ranked prompts, rewards, rollouts, and the learners of PPO, GRPO and DPO."""
