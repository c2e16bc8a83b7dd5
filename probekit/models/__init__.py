"""Load a causal language model, render chats once, and find its blocks."""
