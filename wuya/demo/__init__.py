"""The story of ChatGPT on real chats in one command: each module fills in recipes' configs, as a person would."""
