"""The commands of `posegen`: generate, hands, convert, export; their options and what they say."""
